"""A page that tells the story of a run, in one HTML file that needs no network.

``findings`` computes what the page shows and the run does not hold, ``story`` puts the run into
sections, ``exploring`` lets readers move z themselves, ``beside`` sets several
runs side by side, and ``page`` has the parts of HTML that they are made of.
"""

from pyrovae.report import beside, exploring, findings, page, story
from pyrovae.report.beside import *
from pyrovae.report.exploring import *
from pyrovae.report.findings import *
from pyrovae.report.page import *
from pyrovae.report.story import *

__all__ = [name for file in (findings, beside, exploring, page, story) for name in file.__all__]
