// The explorer of a run's page: decodes and encodes with the networks inside the page, and draws.
"use strict";
(() => {
  const root = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);

  // Numbers: whole numbers in planes of bytes, the highest first, with a scale for each row.

  async function unpack() {
    const bytes = Uint8Array.from(atob(data.numbers), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    const view = new DataView(buffer);
    let at = 0;
    return data.shapes.map(([rows, columns]) => {
      const size = rows * columns, first = at + 4 * rows;
      const values = new Float32Array(size);
      for (let r = 0, i = 0; r < rows; r++) {
        const scale = view.getFloat32(at + 4 * r, true);
        for (let c = 0; c < columns; c++, i++) {
          let whole = view.getInt8(first + i);
          for (let plane = 1; plane < data.width; plane++) whole = 256 * whole + view.getUint8(first + plane * size + i);
          values[i] = scale * whole;
        }
      }
      at = first + data.width * size;
      return { values, rows, columns };
    });
  }

  // Networks.

  const sigmoid = (a) => 1 / (1 + Math.exp(-a));
  const erf = (a) => { // Abramowitz and Stegun 7.1.26, to 1.5e-7
    const t = 1 / (1 + 0.3275911 * Math.abs(a));
    const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return Math.sign(a) * (1 - sum * Math.exp(-a * a));
  };
  const ACTIVATIONS = {
    elu: (a) => (a > 0 ? a : Math.expm1(a)),
    gelu: (a) => 0.5 * a * (1 + erf(a / Math.SQRT2)),
    relu: (a) => Math.max(a, 0),
    silu: (a) => a * sigmoid(a),
    softplus: (a) => (a > 20 ? a : Math.log1p(Math.exp(a))),
    tanh: Math.tanh,
  };

  function apply(network, input, arrays) {
    let h = Float64Array.from(input, (a) => (network.unit === null ? a : a / network.unit));
    for (const [weight, bias, activation, added] of network.layers) {
      const { values, rows, columns } = arrays[weight], start = arrays[bias].values;
      let out = new Float64Array(rows);
      for (let r = 0, i = 0; r < rows; r++) {
        let sum = start[r];
        for (let c = 0; c < columns; c++, i++) sum += values[i] * h[c];
        out[r] = sum;
      }
      if (activation === "glu") out = out.slice(0, rows / 2).map((a, i) => a * sigmoid(out[rows / 2 + i]));
      else if (activation) out = out.map(ACTIVATIONS[activation]);
      if (added) for (let r = 0; r < out.length; r++) out[r] += h[r];
      h = out;
    }
    return h;
  }

  // Likelihoods: the mean of an element and a draw, from the decoder's output and the spread.

  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const boundedExp = (a) => Math.exp(Math.min(40, Math.max(-40, a)));

  function gamma(shape) { // Marsaglia and Tsang (2000)
    if (shape < 1) return gamma(shape + 1) * Math.pow(1 - Math.random(), 1 / shape);
    const d = shape - 1 / 3, c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = normal(), v = (1 + c * x) ** 3;
      if (v > 0 && Math.log(1 - Math.random()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
    }
  }
  const beta = (a, b) => { const one = gamma(a), other = gamma(b); return one / (one + other || 1); };
  function binomial(n, p) {
    let count = 0;
    for (let i = 0; i < n; i++) count += Math.random() < p;
    return count;
  }
  function poisson(rate) { // Ahrens and Dieter (1974): large rates are made smaller by a gamma
    if (rate > 1e6) return Math.round(rate + Math.sqrt(rate) * normal());
    if (rate > 30) {
      const n = Math.floor(0.875 * rate), g = gamma(n);
      return g > rate ? binomial(n - 1, rate / g) : n + poisson(rate - g);
    }
    let count = 0;
    for (let left = Math.exp(-rate), product = Math.random(); product > left; product *= Math.random()) count++;
    return count;
  }
  const logit = () => { const u = Math.random() || 1e-300; return Math.log(u) - Math.log1p(-u); };

  const FAMILIES = {
    bernoulli: { mean: (l) => sigmoid(l), draw: (l) => +(Math.random() < sigmoid(l)) },
    binomial: {
      mean: (l, s, g) => g.total_count * sigmoid(l),
      draw: (l, s, g) => binomial(g.total_count, sigmoid(l)),
    },
    beta_binomial: {
      mean: (l, s, g) => g.total_count * sigmoid(l),
      draw: (l, s, g) => binomial(g.total_count, beta(sigmoid(l) / s, sigmoid(-l) / s)),
    },
    beta: { mean: (l) => sigmoid(l), draw: (l, s) => beta(sigmoid(l) / s, sigmoid(-l) / s) },
    continuous_bernoulli: {
      mean: (l) => (Math.abs(l) < 0.1 ? 0.5 + l / 12 - l ** 3 / 720 : 1 / -Math.expm1(-l) - 1 / l),
      draw: (l) => { const u = Math.random(); return Math.abs(l) < 1e-6 ? u : Math.log1p(u * Math.expm1(l)) / l; },
    },
    discretized_logistic: {
      mean: (loc, s, g) => {
        let sum = 0;
        const top = g.levels - 1;
        for (let k = 1; k <= top; k++) sum += sigmoid((loc * top - k + 0.5) / (s * top));
        return sum;
      },
      draw: (loc, s, g) => Math.min(g.levels - 1, Math.max(0, Math.round((g.levels - 1) * (loc + s * logit())))),
    },
    laplace: { mean: (l) => l, draw: (l, s) => l + s * (Math.random() < 0.5 ? -1 : 1) * -Math.log(1 - Math.random()) },
    log_normal: { mean: (l, s) => Math.exp(l + (s * s) / 2), draw: (l, s) => Math.exp(l + s * normal()) },
    negative_binomial: { mean: (l) => boundedExp(l), draw: (l, s) => poisson(gamma(1 / s) * s * boundedExp(l)) },
    normal: { mean: (l) => l, draw: (l, s) => l + s * normal() },
    poisson: { mean: (l) => boundedExp(l), draw: (l) => poisson(boundedExp(l)) },
    student_t: { mean: (l) => l, draw: (l, s, g) => l + (s * normal()) / Math.sqrt(gamma(g.df / 2) / (g.df / 2)) },
  };

  function levels(output, group, e, count, drawn) {
    const logits = Array.from({ length: group.levels }, (_, k) => output[group.first + k * count + e]);
    const largest = Math.max(...logits), masses = logits.map((a) => Math.exp(a - largest));
    const total = masses.reduce((a, b) => a + b);
    if (drawn) {
      let left = Math.random() * total, k = 0;
      while (k < masses.length - 1 && (left -= masses[k]) > 0) k++;
      return k;
    }
    if (data.columns) return logits.indexOf(largest);
    return masses.reduce((sum, mass, k) => sum + (k * mass) / total, 0);
  }

  function observed(output, arrays, drawn) {
    const size = data.event_shape.reduce((a, b) => a * b), x = new Float64Array(size);
    for (const group of data.groups) {
      const count = group.places.length, family = FAMILIES[group.family];
      group.places.forEach((place, e) => {
        if (group.family === "categorical") { x[place] = levels(output, group, e, count, drawn); return; }
        const first = output[group.first + e];
        let spread = null;
        if (group.spread !== null) spread = arrays[group.spread].values[e];
        else if (group.minimum !== null) spread = group.minimum + boundedExp(output[group.first + count + e]);
        x[place] = family[drawn ? "draw" : "mean"](first, spread, group);
      });
    }
    return x;
  }

  // Posteriors: mean and a lower triangular root of the covariance; KL to the prior.

  function encode(x, arrays) {
    const out = apply(data.encoder, x, arrays), n = data.latent_dim;
    const loc = Array.from(out.slice(0, n)), root = [];
    for (let i = 0, at = 2 * n; i < n; i++) {
      root.push(new Array(n).fill(0));
      if (data.posterior === "full") for (let j = 0; j < i; j++) root[i][j] = (Math.sinh(out[at++]) / n) * boundedExp(out[n + j]);
      root[i][i] = boundedExp(out[n + i]);
    }
    return { loc, root };
  }

  function logPrior(z, arrays) {
    const { weights, loc, scale } = data.prior, n = data.latent_dim;
    const logs = Array.from(arrays[weights].values, (weight, c) => {
      let sum = weight;
      for (let d = 0, i = c * n; d < n; d++, i++) {
        const s = arrays[scale].values[i];
        sum -= 0.5 * ((z[d] - arrays[loc].values[i]) / s) ** 2 + Math.log(s) + 0.5 * Math.log(2 * Math.PI);
      }
      return sum;
    });
    const largest = Math.max(...logs);
    return largest + Math.log(logs.reduce((sum, at) => sum + Math.exp(at - largest), 0));
  }

  function divergence({ loc, root }, arrays) { // by sampling: value and standard error
    if (data.prior.weights === null) return null;
    const n = data.latent_dim, draws = 200, values = [];
    for (let s = 0; s < draws; s++) {
      const e = Array.from({ length: n }, normal);
      let logQ = 0;
      const z = loc.map((at, i) => {
        logQ -= 0.5 * e[i] ** 2 + Math.log(root[i][i]) + 0.5 * Math.log(2 * Math.PI);
        return at + root[i].reduce((sum, r, j) => sum + r * e[j], 0);
      });
      values.push(logQ - logPrior(z, arrays));
    }
    const mean = values.reduce((a, b) => a + b) / draws;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (draws - 1);
    return [mean, Math.sqrt(variance / draws)];
  }

  // The page.

  const COLORS = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#b6992d", "#b07aa1", "#d37295", "#9c755f", "#79706e"];
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, parent = null, kind = null) => {
    const node = kind ? document.createElementNS(kind, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.append(node);
    return node;
  };
  const number = (a, digits = 2) => a.toFixed(digits).replace("-", "\u2212");

  function start(arrays) {
    const row = (index, r) => { const { values, columns } = arrays[index]; return Array.from(values.slice(r * columns, (r + 1) * columns)); };
    const images = data.event_shape.length === 3, points = data.points, plane = data.plane;
    let z = row(points.loc, 0), x = row(points.x, 0), drawn = false, ellipse = null;

    const left = make("div", { class: "explorer-left" }, root), right = make("div", { class: "explorer-right" }, root);
    const said = make("p", { class: "explorer-said", "aria-live": "polite" }, right);
    const shown = make("div", { class: "explorer-shown" }, right);
    const view = images ? pictures(shown) : bars(shown);
    const swap = make("label", { class: "explorer-swap" }, right);
    swap.append("mean of p(x|z) ");
    const choice = make("input", { type: "range", min: 0, max: 1, step: 1, value: 0, "aria-label": "mean of p(x|z), or a draw from it" }, swap);
    swap.append(" a draw");
    choice.addEventListener("input", () => { drawn = choice.value === "1"; refresh(); });
    const buttons = make("p", { class: "explorer-buttons" }, right);
    const button = (text, action) => { make("button", { type: "button" }, buttons).textContent = text; buttons.lastChild.addEventListener("click", action); };
    button("z from the prior", () => { z = row(data.prior.draws, Math.floor(Math.random() * arrays[data.prior.draws].rows)); ellipse = null; tell("A draw of z from p(z): what the model generates."); refresh(); });
    if (data.encoder && images) button("clear the drawing", () => { x.fill(data.range[0]); view.left(x); tell("Draw on the left image: large, and in the middle."); });
    const sliders = data.sliders.map(([d, low, high, kl]) => {
      const label = make("label", { class: "explorer-slider" }, right);
      const name = make("span", {}, label), input = make("input", { type: "range", min: low, max: high, step: (high - low) / 400, "aria-label": `z ${d + 1}` }, label);
      name.innerHTML = `z<sub>${d + 1}</sub>`;
      name.title = `mean KL of this dimension: ${number(kl)} nats`;
      const value = make("output", {}, label);
      input.addEventListener("input", () => { z[d] = +input.value; ellipse = null; refresh(); });
      return () => { input.value = z[d]; value.textContent = number(z[d]); };
    });
    const map = plane ? drawPlane(left) : null;
    const tell = (text) => { said.textContent = text; };

    function refresh() {
      view.right(observed(apply(data.decoder, z, arrays), arrays, drawn));
      sliders.forEach((set) => set());
      if (map) map();
    }

    function take(i) {
      z = row(points.loc, i);
      x = row(points.x, i);
      view.left(x);
      ellipse = plane ? row(points.covariance, i) : null;
      const kl = points.kl[i], label = points.labels ? ` of class ${points.labels[i]}` : "";
      tell(`Test example ${i + 1}${label}: z is the mean of its q(z|x)` + (kl === null ? "." : `, and KL(q(z|x) || p(z)) is about ${number(kl, 1)} nats.`));
      refresh();
    }

    function read() {
      const q = encode(x, arrays), kl = divergence(q, arrays);
      z = q.loc;
      if (plane) {
        const [i, j] = plane.dims, dot = (a, b) => q.root[a].reduce((sum, r, k) => sum + r * q.root[b][k], 0);
        ellipse = [dot(i, i), dot(i, j), dot(i, j), dot(j, j)];
      }
      tell("Your drawing: z is the mean of its q(z|x)" + (kl === null
        ? "; its KL term needs the density of the prior, which is not in this page."
        : `, and KL(q(z|x) || p(z)) is ${number(kl[0], 1)} ± ${number(kl[1], 1)} nats, over 200 draws.`));
      refresh();
    }

    function pictures(parent) {
      const [channels, height, width] = data.event_shape, [low, high] = data.range;
      const canvas = (words) => {
        const figure = make("figure", {}, parent), node = make("canvas", { width, height, role: "img", "aria-label": words }, figure);
        make("figcaption", {}, figure).textContent = words;
        return node;
      };
      const from = canvas(data.encoder ? "x: draw here" : "x"), to = canvas("p(x|z)");
      const paint = (node, values) => {
        const context = node.getContext("2d"), image = context.createImageData(width, height), size = width * height;
        for (let i = 0; i < size; i++) {
          for (let c = 0; c < 3; c++) image.data[4 * i + c] = (255 * (values[channels === 3 ? c * size + i : i] - low)) / (high - low || 1);
          image.data[4 * i + 3] = 255;
        }
        context.putImageData(image, 0, 0);
      };
      if (data.encoder) {
        const radius = Math.max(0.8, Math.min(width, height) / 18), bits = data.groups[0].family === "bernoulli";
        const whole = !["normal", "laplace", "student_t", "continuous_bernoulli", "beta", "log_normal"].includes(data.groups[0].family);
        let last = null;
        const dab = (a, b) => {
          for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) {
            const ink = Math.min(1, Math.max(0, 1.4 - Math.hypot(c + 0.5 - a, r + 0.5 - b) / radius));
            const value = low + (high - low) * (bits ? +(ink > 0.4) : ink);
            x[r * width + c] = Math.max(x[r * width + c], whole ? Math.round(value) : value);
          }
        };
        const stroke = (event) => {
          const box = from.getBoundingClientRect();
          const at = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
          const steps = last ? Math.ceil(2 * Math.hypot(at[0] - last[0], at[1] - last[1])) || 1 : 1;
          for (let s = 1; s <= steps; s++) dab(...(last ? at.map((v, k) => last[k] + ((v - last[k]) * s) / steps) : at));
          last = at;
          paint(from, x);
        };
        from.classList.add("explorer-drawn");
        from.addEventListener("pointerdown", (event) => { from.setPointerCapture(event.pointerId); last = null; stroke(event); });
        from.addEventListener("pointermove", (event) => { if (event.buttons) stroke(event); });
        from.addEventListener("pointerup", () => { last = null; read(); });
      }
      return { left: (values) => paint(from, values), right: (values) => paint(to, values) };
    }

    function bars(parent) {
      const table = make("table", {}, parent), head = make("tr", {}, make("thead", {}, table)), body = make("tbody", {}, table);
      for (const words of ["", "x", "p(x|z)", ""]) make("th", { scope: "col" }, head).textContent = words;
      const cells = data.columns.map((column) => {
        const line = make("tr", {}, body);
        make("th", { scope: "row" }, line).innerHTML = column.name;
        const given = make("td", {}, line), found = make("td", {}, line);
        const meter = make("meter", { min: 0, max: 1, "aria-hidden": "true" }, make("td", {}, line));
        return { given, found, meter };
      });
      const written = (value, column) => {
        const at = column.offset + column.factor * value;
        if (column.words.length) return column.words[Math.round(at)] ?? "";
        return number(at, Math.max(0, Math.min(4, 2 - Math.floor(Math.log10(column.high - column.low || 1)))));
      };
      return {
        left: (values) => cells.forEach((cell, d) => { cell.given.innerHTML = written(values[d], data.columns[d]); }),
        right: (values) => cells.forEach((cell, d) => {
          const column = data.columns[d], at = column.offset + column.factor * values[d];
          cell.found.innerHTML = written(values[d], column);
          cell.meter.value = (at - column.low) / (column.high - column.low || 1);
        }),
      };
    }

    function drawPlane(parent) {
      const size = 420, [[a0, a1], [b0, b1]] = plane.limits, [i, j] = plane.dims;
      const place = (a, b) => [((a - a0) / (a1 - a0)) * size, (1 - (b - b0) / (b1 - b0)) * size];
      const svg = make("svg", { viewBox: `0 0 ${size} ${size}`, tabindex: 0, role: "application", "aria-label": `the plane of z ${i + 1} and z ${j + 1}; the arrow keys move z` }, parent, SVG);
      for (const [name, contours] of Object.entries(plane.lines)) for (const contour of contours) for (const line of contour)
        make("path", { class: `explorer-${name}`, d: "M" + line.map(([a, b]) => place(a, b).map((v) => v.toFixed(1)).join(" ")).join("L") }, svg, SVG);
      const outline = make("polygon", { class: "explorer-ellipse" }, svg, SVG);
      const classes = points.labels ? [...new Set(points.labels)].sort((a, b) => a - b) : [];
      for (let p = 0; p < arrays[points.loc].rows; p++) {
        const code = row(points.loc, p), [cx, cy] = place(code[i], code[j]);
        const color = COLORS[points.labels ? classes.indexOf(points.labels[p]) % COLORS.length : 0];
        const dot = make("circle", { class: "explorer-dot", cx, cy, r: 4, fill: color }, svg, SVG);
        dot.addEventListener("click", (event) => { event.stopPropagation(); take(p); });
        make("title", {}, dot, SVG).textContent = points.labels ? `class ${points.labels[p]}` : `example ${p + 1}`;
      }
      const cross = make("path", { class: "explorer-cross", d: "M-9 0H9M0 -9V9" }, svg, SVG);
      const legend = make("p", { class: "explorer-legend" }, parent);
      legend.append(`across: z${i + 1}, from ${number(a0, 1)} to ${number(a1, 1)}; up: z${j + 1}, from ${number(b0, 1)} to ${number(b1, 1)}`);
      if (classes.length && classes.length <= COLORS.length) {
        const list = make("p", { class: "explorer-legend" }, parent);
        list.append("class ");
        classes.forEach((label, k) => { const mark = make("span", { style: `color:${COLORS[k]}` }, list); mark.textContent = `\u25cf ${label} `; });
      }
      const move = (event) => {
        if (event.target.classList.contains("explorer-dot") && event.type === "pointermove") return;
        const box = svg.getBoundingClientRect();
        z[i] = a0 + ((event.clientX - box.left) / box.width) * (a1 - a0);
        z[j] = b1 - ((event.clientY - box.top) / box.height) * (b1 - b0);
        ellipse = null;
        refresh();
      };
      svg.addEventListener("pointermove", move);
      svg.addEventListener("pointerdown", move);
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!step) return;
        event.preventDefault();
        z[i] += (step[0] * (a1 - a0)) / 60;
        z[j] += (step[1] * (b1 - b0)) / 60;
        ellipse = null;
        refresh();
      });
      return () => {
        cross.setAttribute("transform", `translate(${place(z[i], z[j]).join(" ")})`);
        outline.setAttribute("visibility", ellipse ? "visible" : "hidden");
        if (!ellipse) return;
        const [a, b, , d] = ellipse, first = Math.sqrt(Math.max(a, 0)), below = first ? b / first : 0;
        const second = Math.sqrt(Math.max(d - below * below, 0)); // the Cholesky factor
        const at = Array.from({ length: 48 }, (_, k) => {
          const c = Math.cos((2 * Math.PI * k) / 48), s = Math.sin((2 * Math.PI * k) / 48);
          return place(z[i] + first * c, z[j] + below * c + second * s).map((v) => v.toFixed(1)).join(",");
        });
        outline.setAttribute("points", at.join(" "));
      };
    }

    view.left(x);
    take(0);
    window.explorer = {
      decode: (code) => Array.from(observed(apply(data.decoder, code, arrays), arrays, false)),
      draw: (code) => Array.from(observed(apply(data.decoder, code, arrays), arrays, true)),
      encode: (example) => encode(example, arrays),
      divergence: (example) => divergence(encode(example, arrays), arrays),
      take, read,
    };
  }

  window.explorerReady = unpack().then(start).catch((error) => {
    make("p", {}, root).textContent = `This browser cannot open the explorer: ${error.message}`;
  });
})();
