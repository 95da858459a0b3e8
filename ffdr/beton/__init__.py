"""Image betons and reinforced betons. Knows nothing of training.

Files, bottom up:

- ``layout.py``      the bytes of a beton, once for readers and writers; fingerprints and keys
- ``opened.py``      a file that stays the one that was opened; ``opening.py``: ffdr's own files, never through a link
- ``tables.py``      reads and checks the tables of any beton
- ``header.py``      header of reinforced betons, and what their records must satisfy
- ``manifest.py``    the manifest beside an image beton
- ``read.py``        ``ImageBeton`` and ``ReinforcedBeton``: opened, checked, immutable
- ``partial.py``     files in the making, which survive being killed
- ``receipt.py``     what made a finished file, so that it is not made twice, nor replaced unasked
- ``closing.py``     the line with which a verb ends
- ``reinforced.py``  ``ReinforcedWriter``
- ``jpeg.py``        JPEGs with restart markers and an offset table
- ``encode.py``      what the worker processes of a write do
- ``write.py``       ``write_images``: a source dataset becomes an image beton
- ``pixels.py``      single images in Python
- ``fields.py``      the custom fields as FFCV knows them

- ``splice.py``, ``decode.py``, ``views.py``, ``order.py``, ``pages.py``, ``ffcv_loader.py``, ``stream.py``: from stored
  bytes to finished batches, by FFCV's pipeline; only ``ffcv_loader.py`` touches FFCV's Loader
"""
