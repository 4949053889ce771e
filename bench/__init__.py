"""How fast is a step, beside other ways to write it: `python -m bench` in a checkout.

The races use public names of alberta_nb only, so that one benchmark measures any commit of it; see
nbs/apps/08_bench.ipynb for what is fair about them.
"""
