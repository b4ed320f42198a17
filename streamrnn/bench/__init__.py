"""The benchmark behind ``streamrnn bench``; it needs the extra ``cli``, and its peers if present.

``plan.py`` says what is measured. A row (``row.py``) has contenders: ours (``ours.py``) and those
of others (``peers.py``). ``timing.py`` compares them and times them by turns, beside a loop that
only reads as many bytes (``limits.py``). ``report.py`` says what came out, ``expectations.py``
whether it is what was expected.
"""
