"""Experiments as configurations: the method's own table and ablations, and ours, run on one cohort into one page.

`cli` adds the command, `plan` reads the experiments and lists the runs, `runs` trains and scores them, `measures` turns scores into
numbers, `verdict` compares their order with the published one, `page` writes.
"""
