"""The work that the comparison gives its agents: a report on a folder of text.

Four roles do it: a scout lists the files (`scouting`), readers take the facts from each file
(`reading`), a critic looks for faults across the files (`criticism`), a writer assembles the report
(`writing`). What they hand to each other are the values in `facts`. Nothing here communicates: how
the values travel is what the comparison is about.
"""
