"""The ledger: a record of every finished request and event, on disk within a fraction of a second, then in a database.

Floor: an adapter; its threads wait, the event loop only puts records into a queue. Who uses what, lowest first:

    folder                       a process's own folder below `ledger.spool_dir`, which no other process writes to
    segments                     the files in it: read, and set right after a crash
    runs                         records that follow one another, as they go from the spool to the tables
    spool                        records chained and appended; written through to the disk before they count
    writer                       the thread that empties the queue, and what happens when the disk is full
    usage                        what records add up to each day: for reports, which read no records
    rows                         records as rows, handed to the database's driver
    store                        the tables: records put in, found, verified, deleted when they are old
    mover                        from one folder's files to the tables, each record once
    shipper                      the thread that moves and, now and then, deletes
    books                        `Ledger`: all of it together, for a process

A record is in memory for 0.4 seconds, in the spool until the database has it, and there until retention
deletes it. Other rooms import from these files; SQLAlchemy is loaded only with `store`.
"""
