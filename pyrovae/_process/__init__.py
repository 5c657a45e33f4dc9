"""The process that pyrovae runs in: random streams, parallel processes, compilation, files.

Nothing here depends on VAEs. The public parts, such as :func:`pyrovae.training.joined`, are on the
faces of other wings. Import the file that you need (``from pyrovae._process.files import
atomic_file``), since the command line starts before torch is loaded.
"""
