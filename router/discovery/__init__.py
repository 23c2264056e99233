"""Where a pool's endpoints are found: by the pods of a Kubernetes namespace, or by the addresses of a DNS name.

Floor: adapters. A source tells what it found and how old that is; which pool may have it is decided in
`policies.discovery`, and `router.roster` changes pools by it.
"""
