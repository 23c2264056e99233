"""Several workers on one machine, `server.workers`: one supervisor, and N replicas that it starts and keeps.

Floor: over `router.serve`, which is what each worker runs. Who does what, lowest first:

    assignment    what the supervisor hands a worker, and what it hears of it: one socket pair between the two
    worker        the worker's end: its place in life for `router.serve`
    place         the supervisor's end: the process at one of the N places, started, heard, ended
    sockets       the listening sockets, which outlive the workers that accept from them
    merged_metrics, merged_state
                  the answers of N operator planes, made one
    plane         the operator plane that operators reach
    supervisor    all of that in one loop

Workers find each other as replicas do: by `state.redis_url`, or without one by files and Unix sockets in a private
folder of the supervisor's (`coordination.local_store`), where it also runs the limits (`limits_store`).
"""
