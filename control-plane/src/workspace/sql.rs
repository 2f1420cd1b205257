//! Statements that grow piece by piece, and rows written in bulk: on PostgreSQL as arrays (few binds, one text
//! whatever the number of rows, so that the prepared statement is kept), on SQLite in chunks under its limit.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement, Value};
use shared::id::{ItemId, Revision};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use uuid::Uuid;

/// Binds that SQLite takes in one statement.
const SQLITE_BINDS: usize = 32_766;
/// Rows in one statement on SQLite; more gain nothing.
const SQLITE_ROWS: usize = 500;

/// A statement in the making.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    backend: DbBackend,
    text: String,
    values: Vec<Value>,
}

impl Sql {
    /// An empty one.
    pub(super) fn new(backend: DbBackend) -> Self {
        Self { backend, text: String::new(), values: Vec::new() }
    }

    /// With this text, in which `$1`, `$2`, … stand for `values`.
    pub(super) fn of(backend: DbBackend, text: &str, values: impl IntoIterator<Item = Value>) -> Self {
        Self { backend, text: text.to_owned(), values: values.into_iter().collect() }
    }

    /// Adds text.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a bound value.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.text.push('$');
        self.text.push_str(&self.values.len().to_string());
        self
    }

    /// Adds a bound value in a statement where all are added so. SQLite looks each name like `$1` up among all
    /// before it, which makes thousands slow; `?` is only counted.
    fn bind_next(&mut self, value: Value) -> &mut Self {
        self.values.push(value);
        self.push("?")
    }

    /// Adds `column is one of texts`.
    pub(super) fn one_of_texts(&mut self, column: &str, texts: Vec<String>) -> &mut Self {
        self.push(column);
        match self.backend {
            DbBackend::Postgres => self.push(" = ANY(").bind(texts).push("::text[])"),
            _ => {
                let json = serde_json::Value::from(texts).to_string();
                self.push(" IN (SELECT value FROM json_each(").bind(json).push("))")
            }
        }
    }

    /// Adds `column is one of these bytes`. At most 10,000.
    pub(super) fn one_of_bytes(&mut self, column: &str, all: Vec<Vec<u8>>) -> &mut Self {
        self.push(column);
        match self.backend {
            DbBackend::Postgres => self.push(" = ANY(").bind(all).push("::bytea[])"),
            _ => {
                self.push(" IN (");
                // As literals: hexadecimal digits need no escaping, and thousands of binds are slow.
                for (i, bytes) in all.into_iter().enumerate() {
                    self.push(if i > 0 { ",x'" } else { "x'" }).push(&hex::encode(bytes)).push("'");
                }
                self.push(")")
            }
        }
    }

    /// Adds `column is one of these ids`. At most 10,000.
    pub(super) fn one_of_ids(&mut self, column: &str, ids: Vec<Uuid>) -> &mut Self {
        if self.backend == DbBackend::Postgres {
            return self.push(column).push(" = ANY(").bind(ids).push("::uuid[])");
        }
        self.one_of_bytes(column, ids.into_iter().map(|id| id.as_bytes().to_vec()).collect())
    }

    fn build(self) -> Statement {
        Statement::from_sql_and_values(self.backend, self.text, self.values)
    }

    /// Runs it.
    pub(super) async fn execute(self, db: &impl ConnectionTrait) -> Result<ExecResult, DbErr> {
        db.execute_raw(self.build()).await
    }

    /// Its one row, if there is one.
    pub(super) async fn one(self, db: &impl ConnectionTrait) -> Result<Option<QueryResult>, DbErr> {
        db.query_one_raw(self.build()).await
    }

    /// Its rows.
    pub(super) async fn all(self, db: &impl ConnectionTrait) -> Result<Vec<QueryResult>, DbErr> {
        db.query_all_raw(self.build()).await
    }
}

/// One column of rows to be written. `0` and the nil UUID stand for NULL where `nullable`.
#[derive(Debug)]
pub(super) enum Column {
    Id(Vec<Uuid>),
    Text(Vec<String>),
    Number(Vec<i64>),
    Bytes(Vec<Vec<u8>>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Id(all) => all.len(),
            Self::Text(all) => all.len(),
            Self::Number(all) => all.len(),
            Self::Bytes(all) => all.len(),
        }
    }

    fn postgres_type(&self) -> &'static str {
        match self {
            Self::Id(_) => "uuid",
            Self::Text(_) => "text",
            Self::Number(_) => "bigint",
            Self::Bytes(_) => "bytea",
        }
    }

    fn into_array(self) -> Value {
        match self {
            Self::Id(all) => all.into(),
            Self::Text(all) => all.into(),
            Self::Number(all) => all.into(),
            Self::Bytes(all) => all.into(),
        }
    }

    fn cell(&self, row: usize, nullable: bool) -> Value {
        match self {
            Self::Id(all) if nullable => Some(all[row]).filter(|id| !id.is_nil()).into(),
            Self::Number(all) if nullable => Some(all[row]).filter(|number| *number != 0).into(),
            Self::Id(all) => all[row].into(),
            Self::Text(all) => all[row].clone().into(),
            Self::Number(all) => all[row].into(),
            Self::Bytes(all) => all[row].clone().into(),
        }
    }
}

/// Rows for one table.
#[derive(Debug)]
pub(super) struct Rows {
    table: &'static str,
    tail: &'static str,
    same: Vec<(&'static str, &'static str, Value)>,
    columns: Vec<(&'static str, bool, Column)>,
}

impl Rows {
    /// For `table`, ending in `tail`: what to do about rows that are there already.
    pub(super) fn into_table(table: &'static str, tail: &'static str) -> Self {
        Self { table, tail, same: Vec::new(), columns: Vec::new() }
    }

    /// A value that all rows share, with its PostgreSQL type.
    pub(super) fn same(mut self, name: &'static str, of_type: &'static str, value: impl Into<Value>) -> Self {
        self.same.push((name, of_type, value.into()));
        self
    }

    /// A value of each row.
    pub(super) fn column(mut self, name: &'static str, column: Column) -> Self {
        self.columns.push((name, false, column));
        self
    }

    /// A value of each row, or NULL.
    pub(super) fn nullable(mut self, name: &'static str, column: Column) -> Self {
        self.columns.push((name, true, column));
        self
    }

    fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, _, column)| column.len())
    }

    fn names(&self) -> String {
        let same = self.same.iter().map(|(name, _, _)| *name);
        same.chain(self.columns.iter().map(|(name, _, _)| *name)).collect::<Vec<_>>().join(", ")
    }

    /// Writes the rows, and runs `last` after them. On PostgreSQL all of it is one statement.
    pub(super) async fn write(all: Vec<Rows>, last: Sql, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        let all: Vec<_> = all.into_iter().filter(|rows| rows.len() > 0).collect();
        if last.backend != DbBackend::Postgres {
            for rows in all {
                rows.write_in_chunks(db).await?;
            }
            last.execute(db).await?;
            return Ok(());
        }
        // The numbers of `last`'s binds stand in its text, so its values come first.
        let mut sql = Sql { backend: last.backend, text: String::new(), values: last.values };
        for (i, rows) in all.into_iter().enumerate() {
            sql.push(if i == 0 { "WITH w" } else { ", w" }).push(&i.to_string()).push(" AS (");
            rows.push_arrays(&mut sql);
            sql.push(")");
        }
        sql.push(" ").push(&last.text);
        sql.execute(db).await?;
        Ok(())
    }

    fn push_arrays(self, sql: &mut Sql) {
        let names = self.names();
        sql.push("INSERT INTO ").push(self.table).push(" (").push(&names).push(") SELECT ");
        for (_, of_type, value) in self.same {
            sql.bind(value).push("::").push(of_type).push(", ");
        }
        for (i, (_, nullable, column)) in self.columns.iter().enumerate() {
            sql.push(if i > 0 { ", " } else { "" });
            let name = format!("u.c{i}");
            match (nullable, column) {
                (true, Column::Id(_)) => {
                    sql.push(&format!("NULLIF({name}, '00000000-0000-0000-0000-000000000000'::uuid)"))
                }
                (true, _) => sql.push(&format!("NULLIF({name}, 0)")),
                (false, _) => sql.push(&name),
            };
        }
        sql.push(" FROM UNNEST(");
        let names: Vec<_> = (0..self.columns.len()).map(|i| format!("c{i}")).collect();
        for (i, (_, _, column)) in self.columns.into_iter().enumerate() {
            let of_type = column.postgres_type();
            sql.push(if i > 0 { ", " } else { "" });
            sql.bind(column.into_array()).push("::").push(of_type).push("[]");
        }
        sql.push(") AS u (").push(&names.join(", ")).push(") ").push(self.tail);
    }

    async fn write_in_chunks(self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        let rows = self.len();
        let at_once = (SQLITE_BINDS / (self.same.len() + self.columns.len())).min(SQLITE_ROWS);
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + at_once);
            let mut sql = Sql::new(db.get_database_backend());
            sql.push("INSERT INTO ").push(self.table).push(" (").push(&self.names()).push(") VALUES ");
            for row in start..end {
                sql.push(if row > start { ", (" } else { "(" });
                for (i, (_, _, value)) in self.same.iter().enumerate() {
                    sql.push(if i > 0 { ", " } else { "" }).bind_next(value.clone());
                }
                for (i, (_, nullable, column)) in self.columns.iter().enumerate() {
                    sql.push(if i > 0 || !self.same.is_empty() { ", " } else { "" });
                    sql.bind_next(column.cell(row, *nullable));
                }
                sql.push(")");
            }
            sql.push(" ").push(self.tail).execute_taken(db).await?;
            start = end;
        }
        Ok(())
    }
}

impl Sql {
    async fn execute_taken(&mut self, db: &impl ConnectionTrait) -> Result<ExecResult, DbErr> {
        let sql = std::mem::replace(self, Sql::new(self.backend));
        sql.execute(db).await
    }
}

/// The columns that [`read_item`] reads, of the table or alias `t`.
pub(super) const ITEM_COLUMNS: &str = "t.full_path, t.id, t.kind, t.mode, t.size, t.hash, t.rev";

/// An item from a row with [`ITEM_COLUMNS`].
pub(super) fn read_item(row: &QueryResult) -> Result<(WorkspacePath, Item), DbErr> {
    let entry = read_entry(row)?;
    let id = ItemId(row.try_get("", "id")?);
    let rev = read_rev(row, "rev")?;
    Ok((read_path(row, "full_path")?, Item { id, rev, entry }))
}

/// An entry from a row with `kind`, `mode`, `size` and `hash`.
pub(super) fn read_entry(row: &QueryResult) -> Result<Entry, DbErr> {
    let kind: String = row.try_get("", "kind")?;
    Ok(Entry {
        kind: Kind::parse(&kind).ok_or_else(|| damaged("kind", &kind))?,
        mode: row.try_get::<i64>("", "mode")? as u32 & 0o777,
        size: row.try_get::<i64>("", "size")?.max(0) as u64,
        hash: read_hash(row, "hash")?,
    })
}

/// A path from a column.
pub(super) fn read_path(row: &QueryResult, column: &str) -> Result<WorkspacePath, DbErr> {
    let path: String = row.try_get("", column)?;
    WorkspacePath::new(path).map_err(|bad| damaged("path", &bad.to_string()))
}

/// A hash from a column.
pub(super) fn read_hash(row: &QueryResult, column: &str) -> Result<Hash, DbErr> {
    let bytes: Vec<u8> = row.try_get("", column)?;
    Ok(Hash(bytes.try_into().map_err(|_| damaged("hash", "not 32 bytes"))?))
}

/// A revision from a column.
pub(super) fn read_rev(row: &QueryResult, column: &str) -> Result<Revision, DbErr> {
    Ok(Revision(row.try_get::<i64>("", column)?.max(0) as u64))
}

fn damaged(what: &str, why: &str) -> DbErr {
    DbErr::Type(format!("a stored {what} is none: {why}"))
}
