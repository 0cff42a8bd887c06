"""Experiments as configurations: the method's own table and ablations, and ours, run on one cohort into one page.

`cli` adds the command and `runs` is its course: `plan` reads the experiments and lists the runs, `training` trains and scores one,
`agenda` hands them out, `side_by_side` does so to several processes; `measures` turns scores into numbers, `verdict` compares their order
with the published one, `page` writes.
"""
