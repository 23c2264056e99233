"""What runs in Kubernetes for a configuration, and whether what runs there keeps tenants apart.

    names           labels, and the namespaces' parts
    grants          configuration -> what the gateway needs of the API, by namespace
    parts           engines, Services, searches, owners: what a plan is of
    found           configuration -> engines that a pool finds, and by what
    plan            configuration -> owners with their engines
    engines, owners objects of an engine, and of whom it belongs to
    render          plan -> Kustomize's files
    objects         manifests, from files or the API, by kind
    rules_*         what must hold of them
    audit           all rules -> findings
    cluster         the same objects from the API server

`render` and `audit` read the same plan, so a rule never asks for what is not rendered.
"""
