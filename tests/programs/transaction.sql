PRAGMA journal_mode = DELETE;
PRAGMA cache_size = 200;
CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT);
INSERT INTO numbers SELECT value, 'before ' || value FROM generate_series(1, 20000);
BEGIN;
UPDATE numbers SET text = 'within ' || n WHERE n % 2 = 0;
INSERT INTO numbers SELECT value, 'within ' || value FROM generate_series(20001, 60000);
.shell touch ready; while [ ! -e go ]; do sleep 0.02; done
INSERT INTO numbers SELECT value, 'within ' || value FROM generate_series(60001, 80000);
COMMIT;
.output draft
PRAGMA integrity_check;
SELECT count(*), sum(n), sum(length(text)) FROM numbers;
SELECT count(*) FROM numbers WHERE text LIKE 'within %';
.output stdout
.shell mv draft done
