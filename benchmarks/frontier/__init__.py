"""Which method has the fewest errors for a number of weights; `run.py` measures, `check.py` proves.

Where what lives: `data` reads images, `options` says what a run is, `methods` and `peers` make the
optimizers, `training` does one run, `plan` and `ablation` list the runs, `store` keeps a row of
each, `work` does what is missing, `tables` and `plots` show the rows.
"""
