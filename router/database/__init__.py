"""The database: what must outlive every process and be the same on all replicas.

Floor: an adapter over SQLAlchemy Core; everything here blocks, so nothing of it is called on the event loop. SQLite
serves the processes of one machine, PostgreSQL replicas wherever they are. Who uses what, lowest first:

    tables                       the tables as the program knows them
    deadline                     a connection that is silent for too long is broken off
    errors                       what can be wrong with a database, in words for an operator
    engine                       `Database`: transactions that read and that write
    migrate                      the tables made and changed under a lock, by the steps in `migrations/`

Other rooms import from these files, so that whoever only names an error does not import SQLAlchemy. A new table is a
`Table` in `tables` and a step in `migrations/versions`; a test says where the two differ.
"""
