"""Many cards and machines: jobs of a batch as tasks of a Ray cluster, each a run of the pipeline.

`order` has the values that are sent to a node and come back, `task` what Ray runs there, `job` the
process that does it under a lease, `driver` hands out jobs. Ray itself is only imported by the
driver.
"""
