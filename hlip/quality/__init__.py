"""What a prepared store is worth, to be looked at before training on it: a table of every scan, flags, a page of pictures, a check.

measures.py    what is measured of each scan while it is prepared, and what each number is worth
pictures.py    three planes of a scan as one small JPEG
table.py       quality.parquet: its columns, and older stores' quality.csv
duplicates.py  equal voxels and equal reports in several studies
flags.py       which scans to look at, from the measures of all
collect.py     the rows of all study files -> quality.parquet and quality.html
sheet.py       quality.html: counts, histograms, the worst twenty, a sample; quality_ID.html: all scans of studies asked for
check.py       `hlip check`: does every file still hold what was written?
"""
