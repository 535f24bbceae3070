"""Many LoRAs in one session: jobs one after another, each a whole run of the pipeline.

`jobs` reads what is asked for, `queue` decides what goes next and does it, `warm` keeps the base
model loaded between jobs, `shared` lets jobs of one dataset prepare it once, `summary` shows all.
"""
