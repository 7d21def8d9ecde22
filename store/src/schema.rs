//! The version of tables and rows: new files get the newest, older ones are brought up to it, newer ones are refused.

use std::path::Path;

use rand::{TryRngCore, rngs::OsRng};
use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction,
};

use crate::{
    backup,
    error::{Result, StoreError},
    tables::{Json, Pen, Tables, Text, Writing, decode},
    txn::{META, Meta},
};

/// Brings tables and rows from one version to the next.
pub(crate) type Migration = fn(&WriteTransaction) -> Result<()>;

/// The version this program writes: one more than there are migrations.
///
/// A change of what is in the tables (also a field that older rows lack and that has no serde default) needs a migration here,
/// and a file of the old version in `tests/`.
pub(crate) const MIGRATIONS: &[Migration] = &[names_shown];

/// 1 → 2: who is called how can be looked up by the name.
fn names_shown(tx: &WriteTransaction) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Row {
        profile: Shown,
    }
    #[derive(serde::Deserialize)]
    struct Shown {
        display_name: String,
    }
    let ghosts = tx.open_table(TableDefinition::<Text, Json>::new("ghosts"))?;
    let mut shown = tx.open_table(TableDefinition::<(Text, Text), ()>::new("ghost_shown"))?;
    for ghost in ghosts.iter()? {
        let (id, row) = ghost?;
        // A damaged row is told of when somebody needs it.
        if let Ok(row) = serde_json::from_slice::<Row>(row.value()) {
            let name = reconcile::model::alike(&row.profile.display_name);
            shown.insert((name.as_str(), id.value()), ())?;
        }
    }
    Ok(())
}

const META_TABLE: TableDefinition<'static, Text, Json> = TableDefinition::new("meta");

/// The version that a program with these migrations writes.
pub(crate) fn known(migrations: &[Migration]) -> u64 {
    migrations.len() as u64 + 1
}

/// The version of the file; `None` when it is empty, or does not say.
pub(crate) fn version(db: &Database) -> Result<Option<u64>> {
    let tx = db.begin_read()?;
    if !tx.list_tables()?.any(|table| table.name() == META) {
        return Ok(None);
    }
    // Another program's table of that name: what prepares the file says so.
    let Ok(table) = tx.open_table(META_TABLE) else { return Ok(None) };
    let Some(row) = table.get(META)? else { return Ok(None) };
    Ok(Some(decode::<Meta>(META, &META, row.value())?.schema))
}

/// Makes the file one of the newest version, in one transaction: a crash leaves the old version or the new one.
///
/// A file that is a backup put in place, by whomever, is noted as restored.
pub(crate) fn prepare(db: &Database, path: &Path, migrations: &[Migration]) -> Result<()> {
    let known = known(migrations);
    let newer = |found| StoreError::Newer { path: path.to_owned(), found, known };
    let tx = db.begin_write()?;
    let names: Vec<String> = tx.list_tables()?.map(|table| table.name().to_owned()).collect();
    let multi = tx.list_multimap_tables()?.count();
    let mut meta = if names.is_empty() && multi == 0 {
        fresh(known)?
    } else {
        if !names.iter().any(|name| name == META) {
            let source = "its tables are another program's".into();
            return Err(StoreError::Foreign { path: path.to_owned(), source });
        }
        let table = tx
            .open_table(META_TABLE)
            .map_err(|error| StoreError::Foreign { path: path.to_owned(), source: error.into() })?;
        let row = table.get(META)?.ok_or_else(|| StoreError::Foreign {
            path: path.to_owned(),
            source: "it does not say of which version it is".into(),
        })?;
        decode::<Meta>(META, &META, row.value())?
    };
    if meta.schema > known {
        return Err(newer(meta.schema));
    }
    let first = usize::try_from(meta.schema.saturating_sub(1)).map_err(|_| newer(meta.schema))?;
    for (from, migration) in migrations.iter().enumerate().skip(first) {
        tracing::info!(from = from + 1, to = from + 2, "database being brought to a newer version");
        migration(&tx)?;
    }
    meta.schema = known;
    write_all(&tx, &meta)?;
    Ok(tx.commit()?)
}

fn write_all(tx: &WriteTransaction, meta: &Meta) -> Result<()> {
    let pen = Pen { inner: tx, touched: std::cell::Cell::new(false) };
    let mut tables = Tables::<Writing<'_>>::new();
    tables.open_all(&pen)?;
    backup::note_restored(&mut tables, &pen)?;
    tables.meta.put::<Meta>(&pen, META, meta)
}

fn fresh(schema: u64) -> Result<Meta> {
    let mut id = [0; 16];
    OsRng.try_fill_bytes(&mut id).map_err(|error| StoreError::Random(Box::new(error)))?;
    Ok(Meta { schema, created: now_ms(), id: format!("{:032x}", u128::from_be_bytes(id)) })
}

#[expect(clippy::disallowed_methods, reason = "a note for admins: nothing is decided by it")]
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    const OLD: TableDefinition<'static, Text, u64> = TableDefinition::new("old");
    const NEW: TableDefinition<'static, Text, u64> = TableDefinition::new("new");

    fn first(tx: &WriteTransaction) -> Result<()> {
        let old = tx.open_table(OLD)?.get("count")?.map_or(0, |count| count.value());
        tx.open_table(NEW)?.insert("count", old * 2)?;
        tx.delete_table(OLD)?;
        Ok(())
    }

    fn second(tx: &WriteTransaction) -> Result<()> {
        let old = tx.open_table(NEW)?.get("count")?.map_or(0, |count| count.value());
        tx.open_table(NEW)?.insert("count", old + 1)?;
        Ok(())
    }

    fn failing(tx: &WriteTransaction) -> Result<()> {
        tx.open_table(NEW)?.insert("count", 0)?;
        Err(StoreError::given_up("no"))
    }

    fn old_file() -> Database {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).expect("memory");
        prepare(&db, Path::new("old"), &[]).expect("version 1");
        let tx = db.begin_write().expect("begin");
        tx.open_table(OLD).expect("open").insert("count", 20).expect("insert");
        tx.commit().expect("commit");
        db
    }

    fn state(db: &Database) -> (u64, Option<u64>) {
        let tx = db.begin_read().expect("begin");
        let meta = tx.open_table(META_TABLE).expect("open").get(META).expect("get").expect("there");
        let meta: Meta = decode(META, &META, meta.value()).expect("readable");
        let count = tx.open_table(NEW).ok().and_then(|table| table.get("count").expect("get"));
        (meta.schema, count.map(|count| count.value()))
    }

    #[test]
    fn an_old_file_takes_each_step_once() {
        let db = old_file();
        assert_eq!(state(&db), (1, None));
        prepare(&db, Path::new("old"), &[first]).expect("one step");
        assert_eq!(state(&db), (2, Some(40)));
        prepare(&db, Path::new("old"), &[first, second]).expect("one more step");
        assert_eq!(state(&db), (3, Some(41)));
        prepare(&db, Path::new("old"), &[first, second]).expect("nothing to do");
        assert_eq!(state(&db), (3, Some(41)));
        let db = old_file();
        prepare(&db, Path::new("old"), &[first, second]).expect("both steps");
        assert_eq!(state(&db), (3, Some(41)));
    }

    #[test]
    fn an_old_file_is_copied_before_the_first_step_and_the_copy_is_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("database.redb");
        let open = |migrations: &[Migration]| {
            let (key, options) = (crate::SealKey::new([7; 32]), crate::Options::default());
            crate::Store::open_migrating(&path, key, options, migrations)
        };
        drop(open(&[]).expect("version 1"));
        let db = Database::open(&path).expect("open");
        let tx = db.begin_write().expect("begin");
        tx.open_table(OLD).expect("open").insert("count", 20).expect("insert");
        tx.commit().expect("commit");
        drop(db);
        let copy = folder.path().join("database.redb.schema-1");
        drop(open(&[]).expect("as it was"));
        assert!(!copy.exists(), "nothing to do, nothing to copy");

        assert!(open(&[first, failing]).is_err(), "a step fails");
        let before = std::fs::read(&copy).expect("copied first");
        drop(open(&[first, second]).expect("both steps"));
        assert_eq!(state(&Database::open(&path).expect("open")), (3, Some(41)));
        let copied = Database::open(&copy).expect("the copy is a database");
        assert_eq!(state(&copied), (1, None));
        let count = copied.begin_read().expect("begin").open_table(OLD).expect("the old table");
        assert_eq!(count.get("count").expect("get").expect("there").value(), 20);
        assert!(!before.is_empty());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&copy).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop(copied);
        // The way back is the way of every backup.
        let aside = folder.path().join("aside");
        crate::restore(&copy, &path, &aside).expect("restored");
        assert_eq!(state(&Database::open(&path).expect("open")).1, None);
        assert_eq!(state(&Database::open(&aside).expect("open")), (3, Some(41)));
    }

    #[test]
    fn a_failed_step_leaves_the_old_file() {
        let db = old_file();
        let error = prepare(&db, Path::new("old"), &[first, failing]);
        assert!(matches!(error, Err(StoreError::GivenUp(_))), "{error:?}");
        assert_eq!(state(&db), (1, None));
        prepare(&db, Path::new("old"), &[first, second]).expect("repaired program");
        assert_eq!(state(&db), (3, Some(41)));
    }

    #[test]
    fn a_newer_file_is_refused_and_left_as_it_is() {
        let db = old_file();
        prepare(&db, Path::new("/data/x.redb"), &[first, second]).expect("newer program");
        let error = prepare(&db, Path::new("/data/x.redb"), &[first]).expect_err("older program");
        let text = error.to_string();
        for part in ["/data/x.redb", "version 3", "up to 2", "run the newer program"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert_eq!(state(&db), (3, Some(41)));
    }

    #[test]
    fn another_programs_database_is_refused() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).expect("memory");
        let tx = db.begin_write().expect("begin");
        tx.open_table(OLD).expect("open").insert("count", 20).expect("insert");
        tx.commit().expect("commit");
        let error = prepare(&db, Path::new("x"), &[]);
        assert!(matches!(error, Err(StoreError::Foreign { .. })), "{error:?}");
    }
}
