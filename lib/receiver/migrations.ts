// The store's tables, as steps from one version to the next. A step that was released is never changed: add another.
//
// Samples are stored as they are read: the figures of a host at one moment are one row, those of all its containers another.
// A row for each container would touch a page for each container and report. Reading one container's history from the host's
// rows takes a few milliseconds.

/** `MIGRATIONS[n]` brings tables of version n to version n + 1. */
export const MIGRATIONS: readonly (readonly string[])[] = [
  [
    `CREATE TABLE hosts (
      id INTEGER PRIMARY KEY,
      name TEXT NOT NULL UNIQUE,
      status TEXT NOT NULL,
      created_at INTEGER NOT NULL,
      archived_at INTEGER,
      set_interval INTEGER,
      told_interval INTEGER,
      last_seen_at INTEGER,
      last_recorded_at INTEGER,
      away_ms INTEGER NOT NULL DEFAULT 0,
      agent_version TEXT,
      facts TEXT NOT NULL DEFAULT '{}',
      metrics TEXT NOT NULL DEFAULT '{}',
      extras TEXT NOT NULL DEFAULT '{}',
      health TEXT,
      health_at INTEGER,
      last_upload_at INTEGER,
      uploads_refused_since INTEGER,
      upload_refused_at INTEGER
    )`,
    `CREATE TABLE tokens (
      id INTEGER PRIMARY KEY,
      host INTEGER NOT NULL REFERENCES hosts (id),
      sha256 TEXT NOT NULL UNIQUE,
      created_at INTEGER NOT NULL,
      last_used_at INTEGER,
      revoked_at INTEGER,
      fingerprint TEXT
    )`,
    `CREATE INDEX tokens_of_host ON tokens (host)`,
    `CREATE TABLE containers (
      id INTEGER PRIMARY KEY,
      host INTEGER NOT NULL REFERENCES hosts (id),
      container_id TEXT NOT NULL,
      description TEXT NOT NULL,
      first_seen_at INTEGER NOT NULL,
      gone_at INTEGER,
      UNIQUE (host, container_id)
    )`,
    `CREATE INDEX containers_present ON containers (host) WHERE gone_at IS NULL`,
    `CREATE TABLE guests (
      id INTEGER PRIMARY KEY,
      host INTEGER NOT NULL REFERENCES hosts (id),
      vmid INTEGER NOT NULL,
      description TEXT NOT NULL,
      first_seen_at INTEGER NOT NULL,
      gone_at INTEGER,
      UNIQUE (host, vmid)
    )`,
    `CREATE TABLE host_samples (
      host INTEGER NOT NULL,
      at INTEGER NOT NULL,
      cpu_percent REAL,
      memory_used_mb INTEGER,
      memory_total_mb INTEGER,
      disk_used_gb INTEGER,
      disk_total_gb INTEGER,
      network_rx_bytes INTEGER,
      network_tx_bytes INTEGER,
      uptime_seconds INTEGER,
      load_average REAL,
      cpu_temp_c REAL,
      PRIMARY KEY (host, at)
    ) WITHOUT ROWID`,
    `CREATE TABLE workload_samples (
      host INTEGER NOT NULL,
      at INTEGER NOT NULL,
      containers TEXT NOT NULL,
      guests TEXT NOT NULL,
      PRIMARY KEY (host, at)
    )`,
    `CREATE TABLE host_rollups (
      host INTEGER NOT NULL,
      step INTEGER NOT NULL,
      at INTEGER NOT NULL,
      metrics TEXT NOT NULL,
      PRIMARY KEY (host, step, at)
    ) WITHOUT ROWID`,
    `CREATE TABLE workload_rollups (
      host INTEGER NOT NULL,
      step INTEGER NOT NULL,
      at INTEGER NOT NULL,
      containers TEXT NOT NULL,
      PRIMARY KEY (host, step, at)
    )`,
    `CREATE TABLE rollups_due (
      step INTEGER NOT NULL,
      at INTEGER NOT NULL,
      host INTEGER NOT NULL,
      PRIMARY KEY (step, at, host)
    ) WITHOUT ROWID`,
    `CREATE TABLE alerts (
      id INTEGER PRIMARY KEY,
      host INTEGER NOT NULL REFERENCES hosts (id),
      what TEXT NOT NULL,
      severity TEXT NOT NULL,
      text TEXT NOT NULL,
      opened_at INTEGER NOT NULL,
      closed_at INTEGER
    )`,
    `CREATE UNIQUE INDEX alerts_open ON alerts (host, what) WHERE closed_at IS NULL`,
    `CREATE TABLE events (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      at INTEGER NOT NULL,
      type TEXT NOT NULL,
      severity TEXT NOT NULL,
      host INTEGER NOT NULL REFERENCES hosts (id),
      subject TEXT,
      text TEXT NOT NULL,
      told_at INTEGER
    )`,
    `CREATE INDEX events_untold ON events (id) WHERE told_at IS NULL`,
    `CREATE INDEX events_at ON events (at)`,
    `CREATE TABLE episodes (
      host TEXT NOT NULL,
      episode TEXT NOT NULL,
      received_at TEXT NOT NULL,
      sha256 TEXT NOT NULL,
      size INTEGER NOT NULL,
      line TEXT NOT NULL,
      PRIMARY KEY (host, episode)
    ) WITHOUT ROWID`,
    `CREATE INDEX episodes_received ON episodes (received_at, size)`,
  ],
  [
    `ALTER TABLE episodes ADD COLUMN removed_at TEXT`,
    // Former names of hosts. settled_at: the episodes have moved.
    `CREATE TABLE host_aliases (
      name TEXT PRIMARY KEY,
      host INTEGER NOT NULL REFERENCES hosts (id),
      settled_at INTEGER
    )`,
    `ALTER TABLE hosts ADD COLUMN paused_until INTEGER`,
    `ALTER TABLE hosts ADD COLUMN pause_reason TEXT`,
    // Opened while its host was paused, and not told yet.
    `ALTER TABLE alerts ADD COLUMN muted INTEGER NOT NULL DEFAULT 0`,
  ],
  [
    // The receiver's running time at the host's last report: see presence.ts.
    `ALTER TABLE hosts ADD COLUMN heard_ms INTEGER NOT NULL DEFAULT 0`,
    `ALTER TABLE hosts DROP COLUMN away_ms`,
    // JSON, null where there is nothing: see store-report.ts.
    `ALTER TABLE hosts ADD COLUMN refused TEXT`,
    `ALTER TABLE hosts ADD COLUMN restarts TEXT`,
    `ALTER TABLE hosts ADD COLUMN machines TEXT`,
  ],
  [
    // Alerts and events of hosts and of jobs: one of `host` and `job` is given. SQLite can't take a NOT NULL away: both are made anew.
    `CREATE TABLE alerts_anew (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      host INTEGER REFERENCES hosts (id),
      job INTEGER,
      type TEXT NOT NULL,
      subject TEXT NOT NULL DEFAULT '',
      severity TEXT NOT NULL,
      text TEXT NOT NULL,
      opened_at INTEGER NOT NULL,
      level REAL NOT NULL DEFAULT 0,
      figures TEXT,
      closed_at INTEGER,
      recovery TEXT,
      acknowledged_at INTEGER,
      acknowledged_by TEXT,
      opened_ran INTEGER,
      closed_ran INTEGER,
      changed_ran INTEGER
    )`,
    // When they began in running time follows from the alive mark (presence.ts); that they did is no change of the last hour.
    `INSERT INTO alerts_anew (id, host, type, subject, severity, text, opened_at, closed_at, opened_ran, closed_ran, changed_ran)
      SELECT id, host, substr(what || ' ', 1, instr(what || ' ', ' ') - 1), substr(what, instr(what || ' ', ' ') + 1),
        severity, text, opened_at, closed_at, opened_at + IFNULL((SELECT value ->> '$.ran' - value ->> '$.line' FROM meta
        WHERE key = 'alive'), -unixepoch() * 1000), IIF(closed_at IS NULL, NULL, -86400000), -86400000 FROM alerts`,
    // What was told of each subject: see announce.ts.
    `CREATE TABLE told (
      id INTEGER PRIMARY KEY,
      host INTEGER REFERENCES hosts (id),
      job INTEGER,
      type TEXT NOT NULL,
      subject TEXT NOT NULL,
      open INTEGER NOT NULL,
      level REAL NOT NULL,
      began INTEGER,
      ended INTEGER,
      reminded INTEGER,
      flapping INTEGER,
      steady INTEGER
    )`,
    `INSERT INTO told (host, type, subject, open, level, began, reminded)
      SELECT a.host, a.type, a.subject, 1, 0, -86400000, IFNULL((SELECT value ->> '$.ran' FROM meta WHERE key = 'alive'), 0)
      FROM alerts b JOIN alerts_anew a ON a.id = b.id
      WHERE b.closed_at IS NULL AND b.muted = 0 AND a.type <> 'host.stale'`,
    `DROP TABLE alerts`,
    `ALTER TABLE alerts_anew RENAME TO alerts`,
    `CREATE UNIQUE INDEX alerts_open ON alerts (host, type, subject) WHERE closed_at IS NULL`,
    `CREATE UNIQUE INDEX alerts_open_of_jobs ON alerts (job, type, subject) WHERE closed_at IS NULL`,
    `CREATE INDEX alerts_of ON alerts (host, job, type, subject)`,
    `CREATE INDEX alerts_changed ON alerts (changed_ran)`,
    `CREATE TABLE events_anew (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      at INTEGER NOT NULL,
      type TEXT NOT NULL,
      severity TEXT NOT NULL,
      host INTEGER REFERENCES hosts (id),
      job INTEGER,
      subject TEXT,
      text TEXT NOT NULL,
      quiet INTEGER NOT NULL DEFAULT 0,
      told_at INTEGER
    )`,
    `INSERT INTO events_anew (id, at, type, severity, host, subject, text, told_at)
      SELECT id, at, type, severity, host, subject, text, told_at FROM events`,
    // Numbers that were given stay given, also where their events are deleted.
    `DELETE FROM sqlite_sequence WHERE name = 'events_anew'`,
    `INSERT INTO sqlite_sequence (name, seq) SELECT 'events_anew', seq FROM sqlite_sequence WHERE name = 'events'`,
    `DROP TABLE events`,
    `ALTER TABLE events_anew RENAME TO events`,
    `CREATE INDEX events_untold ON events (id) WHERE told_at IS NULL`,
    `CREATE INDEX events_at ON events (at)`,
    // JSON, null where there is nothing: alert-settings.ts, assess.ts.
    `ALTER TABLE hosts ADD COLUMN alert_settings TEXT`,
    `ALTER TABLE hosts ADD COLUMN offline_is_fine INTEGER NOT NULL DEFAULT 0`,
    `ALTER TABLE hosts ADD COLUMN judged TEXT`,
    `ALTER TABLE hosts ADD COLUMN disk_paces TEXT`,
    `CREATE TABLE disk_history (
      host INTEGER NOT NULL REFERENCES hosts (id),
      mount TEXT NOT NULL,
      samples TEXT NOT NULL,
      PRIMARY KEY (host, mount)
    ) WITHOUT ROWID`,
  ],
  [
    // Jobs: see jobs.ts. `uuid` is the credential of their pings.
    `CREATE TABLE jobs (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      name TEXT NOT NULL UNIQUE,
      uuid TEXT NOT NULL UNIQUE,
      created_at INTEGER NOT NULL,
      every_ms INTEGER,
      cron TEXT,
      tz TEXT,
      grace_ms INTEGER NOT NULL,
      status TEXT NOT NULL DEFAULT 'new',
      pings INTEGER NOT NULL DEFAULT 0,
      last_ping_at INTEGER,
      last_duration_ms INTEGER,
      due_at INTEGER,
      late_ran INTEGER,
      started_at INTEGER,
      started_ran INTEGER,
      started_rid TEXT,
      down_at INTEGER,
      paused_until INTEGER,
      pause_reason TEXT
    )`,
    `CREATE TABLE job_pings (
      id INTEGER PRIMARY KEY,
      job INTEGER NOT NULL REFERENCES jobs (id),
      at INTEGER NOT NULL,
      kind TEXT NOT NULL,
      exit_status INTEGER,
      rid TEXT,
      duration_ms INTEGER,
      ip TEXT NOT NULL,
      agent TEXT,
      body TEXT
    )`,
    `CREATE INDEX pings_of_job ON job_pings (job)`,
  ],
  [
    // See lists.ts.
    `CREATE TABLE host_lists (
      host INTEGER PRIMARY KEY REFERENCES hosts (id),
      names TEXT NOT NULL,
      rest TEXT NOT NULL,
      lists TEXT NOT NULL
    )`,
    `INSERT INTO host_lists (host, names, rest, lists) SELECT id, '', extras, '{}' FROM hosts WHERE extras <> '{}'`,
    `ALTER TABLE hosts DROP COLUMN extras`,
  ],
  [
    // Each gives the newest rows that pass a filter, without reading the others.
    `CREATE INDEX events_of_host ON events (host)`,
    `CREATE INDEX events_of_job ON events (job)`,
    `CREATE INDEX events_of_type ON events (type)`,
    `CREATE INDEX events_of_severity ON events (severity)`,
    `CREATE INDEX alerts_of_job ON alerts (job)`,
    `CREATE INDEX alerts_of_type ON alerts (type)`,
    `CREATE INDEX alerts_of_severity ON alerts (severity)`,
    `CREATE INDEX episodes_of_host ON episodes (host, received_at)`,
  ],
  [
    // JSON: names, sorted.
    `ALTER TABLE hosts ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'`,
  ],
];
