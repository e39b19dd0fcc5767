"""The benchmarks behind `make bench`: ratios against peers that are measured in the same run.

`rows.py` says what a row is, `runner.py` measures one, `report.py` shows the results; every other module holds
the rows of one subject in its `ROWS`. A new subject is a new module, named in `__main__.py`.
"""
