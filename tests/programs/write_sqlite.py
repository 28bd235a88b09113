"""Writes rows into a database, a transaction each, and says behind each how many are written.

`write_sqlite.py JOURNAL`: journal mode `delete` or `wal`; until a file `stop` appears.
"""
import os
import sqlite3
import sys

database = sqlite3.connect("rows.db", isolation_level=None)
assert database.execute(f"pragma journal_mode={sys.argv[1]}").fetchone()[0] == sys.argv[1]
database.execute("pragma synchronous=normal")
database.execute("create table rows (number integer primary key, text)")
number = 0
while not os.path.exists("stop"):
    number += 1
    database.execute("begin immediate")
    database.execute("insert into rows values (?, ?)", (number, str(number) * 50))
    database.execute("commit")
    with open("answered.new", "w") as file:
        file.write(str(number))
    os.rename("answered.new", "answered")
database.close()
