"""The process that pyrovae runs in: random streams, parallel processes, compilation, files.

Nothing here knows what a VAE is. Users meet one part of it, :func:`pyrovae.training.joined`. Import
the file that you need (``from pyrovae._process.files import atomic_file``), since the command line
starts before torch is loaded.
"""
