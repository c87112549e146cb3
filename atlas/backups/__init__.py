"""Backups of the database: consistent dumps in compressed, checked and optionally encrypted parts.

A backup is a folder of parts and a manifest, which is written last: without one there is no backup. The
parts joined are one zstandard frame, followed by a skippable one with a copy of the manifest's facts, all of
it inside age's encryption if there is a recipient. So a backup can also be restored without Pleiades:

    cat …/part-* | age --decrypt --identity key.txt | zstd --decompress | pg_restore --dbname=…
"""
