"""A worker process in which the base model stays loaded between jobs.

`start` runs the worker and decides which commands it executes, `worker` executes them, and `client`
is a process that represents one job. Client and worker exchange JSON lines over a Unix socket:

    {"module": "tenner.sample.draw", "arguments": ["job.json"]}   a job, from the client
    {"busy": true}       the answer: whether another job is running
    {"output": "..."}    output of the job
    {"signal": 15}       from the client: a signal for the job
    {"exit": 0}          the job's exit code, the last line
    {"state": true}      from a client: asks for `busy` alone
"""
