"""Hostile and damaged files, at scale: whole files are changed at random, and whoever reads them must answer or refuse in a sentence.

`mutate.py` changes bytes, `formats.py` knows where a format hurts, `corpus.py` makes the whole files, `foreign.py` and `ours.py` read them,
`cage.py` runs each case in a child process and watches it. From the root of the repository:

    python -m tests.fuzz --cases 10000 --seed 0          the long form; a table by reader, --out FILE writes it as Markdown
    python -m tests.fuzz --only png --case 17 --seed 0   one case again, with its traceback; its files stay in the folder that is named

A case is made from (seed, reader, number) alone.
"""
