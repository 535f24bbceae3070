"""A process that keeps the base model loaded between jobs.

`start` runs the worker and decides which commands go to it, `worker` serves them, and `client` is
the process that represents one job. Client and worker speak JSON lines over a Unix socket:

    {"module": "tenner.sample.draw", "arguments": ["job.json"]}   do this
    {"busy": true}       another job is under way
    {"output": "..."}    what the job printed
    {"signal": 15}       sent by the client: pass it on
    {"exit": 0}          the job's exit code, the last line
    {"state": true}      whether the worker is busy
"""
