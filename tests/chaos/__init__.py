"""The gateway under faults: real processes that are killed, hung, cut off and restarted while clients are served."""
