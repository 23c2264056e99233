"""What `benchmarks.scale` is made of: `curve` (what growth is called), `objects` and `processes` (what is measured),
`rig` and `serving` (the gateway process), `axes` (the table of axes), `report`.
"""
