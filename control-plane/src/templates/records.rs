//! Templates in the database.

use super::{DEFAULT, Template};
use crate::entities::{now_ms, session, template};
use crate::workspace::Database;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use shared::id::SessionId;

/// Templates that there may be.
pub const COUNT_MOST: usize = 200;
/// Sessions that a refusal names.
const NAMED: u64 = 10;

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("there is no template named {0:?}")]
    NotFound(String),
    /// The one that every server has.
    #[error("the template {DEFAULT:?} is what sessions that name none are made from")]
    BuiltIn,
    /// Sessions are made from it.
    #[error("{count} sessions are made from the template {name:?}")]
    InUse {
        /// Its name.
        name: String,
        /// How many.
        count: u64,
        /// The first of them, with their names.
        sessions: Vec<(SessionId, String)>,
    },
    /// No more fit.
    #[error("there are {COUNT_MOST} templates already")]
    TooMany,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
}

/// All templates. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Templates(Database);

/// A row's template. What the database holds was checked before it came there.
fn read(row: template::Model) -> Result<Template, DbErr> {
    let broken = |why: serde_json::Error| DbErr::Custom(format!("template {:?}: {why}", row.name));
    let mut template: Template = serde_json::from_str(&row.spec).map_err(broken)?;
    template.name = row.name;
    Ok(template)
}

fn written(template: &Template) -> Result<String, DbErr> {
    serde_json::to_string(template)
        .map_err(|why| DbErr::Custom(format!("template {:?}: {why}", template.name)))
}

impl Templates {
    /// Those of a database.
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// Makes the default template what `template` says, unless somebody has changed it since it was made: so it
    /// follows the operator's settings until an administrator takes it over.
    pub async fn provide_default(&self, template: &Template) -> Result<(), DbErr> {
        let (spec, now) = (written(template)?, now_ms());
        let row = template::ActiveModel {
            id: NotSet,
            name: Set(DEFAULT.to_owned()),
            spec: Set(spec.clone()),
            created_at: Set(now),
            updated_at: Set(now),
        };
        template::Entity::insert(row)
            .on_conflict(OnConflict::column(template::Column::Name).do_nothing().to_owned())
            .exec_without_returning(self.0.writer())
            .await?;
        template::Entity::update_many()
            .col_expr(template::Column::Spec, Expr::value(spec))
            .filter(template::Column::Name.eq(DEFAULT))
            .filter(Expr::col(template::Column::UpdatedAt).eq(Expr::col(template::Column::CreatedAt)))
            .exec(self.0.writer())
            .await?;
        Ok(())
    }

    /// All of them, by name.
    pub async fn list(&self) -> Result<Vec<Template>, Error> {
        let rows = template::Entity::find().order_by_asc(template::Column::Name).all(self.0.reader()).await?;
        Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
    }

    /// One of them.
    pub async fn get(&self, name: &str) -> Result<Template, Error> {
        find(self.0.reader(), name).await
    }

    /// Makes or replaces one, which was checked. Answers whether it is new. Sessions that run keep the pod they have;
    /// their times follow at once.
    pub async fn put(&self, template: &Template) -> Result<bool, Error> {
        let (spec, now) = (written(template)?, now_ms());
        let transaction = self.0.begin().await?;
        let changed = template::Entity::update_many()
            .col_expr(template::Column::Spec, Expr::value(spec.clone()))
            // Always past the time it was made: that is how one that was changed is told from one that never was.
            .col_expr(
                template::Column::UpdatedAt,
                Expr::case(
                    Expr::col(template::Column::CreatedAt).gte(now),
                    Expr::col(template::Column::CreatedAt).add(1),
                )
                .finally(now)
                .into(),
            )
            .filter(template::Column::Name.eq(template.name.as_str()))
            .exec(&transaction)
            .await?;
        if changed.rows_affected == 0 {
            let names: Vec<String> = template::Entity::find()
                .select_only()
                .column(template::Column::Name)
                .into_tuple()
                .all(&transaction)
                .await?;
            if names.len() >= COUNT_MOST {
                return Err(Error::TooMany);
            }
            let row = template::ActiveModel {
                id: NotSet,
                name: Set(template.name.clone()),
                spec: Set(spec),
                created_at: Set(now),
                updated_at: Set(now),
            };
            template::Entity::insert(row).exec_without_returning(&transaction).await?;
        }
        transaction.commit().await?;
        Ok(changed.rows_affected == 0)
    }

    /// Removes one that no session is made from.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let transaction = self.0.begin().await?;
        // Locked first: whoever makes a session from it meanwhile waits, and then finds it gone.
        let row = template::Entity::find()
            .filter(template::Column::Name.eq(name))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let Some(row) = row else { return Err(Error::NotFound(name.to_owned())) };
        if name == DEFAULT {
            return Err(Error::BuiltIn);
        }
        let using = || {
            session::Entity::find()
                .filter(session::Column::Template.eq(name))
                .filter(session::Column::DeletedAt.is_null())
        };
        let sessions: Vec<(uuid::Uuid, String)> = using()
            .select_only()
            .column(session::Column::Uuid)
            .column(session::Column::Name)
            .order_by_asc(session::Column::Id)
            .limit(NAMED)
            .into_tuple()
            .all(&transaction)
            .await?;
        if !sessions.is_empty() {
            let count = sea_orm::PaginatorTrait::count(using(), &transaction).await?;
            let sessions = sessions.into_iter().map(|(id, name)| (SessionId(id), name)).collect();
            return Err(Error::InUse { name: name.to_owned(), count, sessions });
        }
        template::Entity::delete_by_id(row.id).exec(&transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// One template. A database that was never given the default one has it all the same.
pub(crate) async fn find(db: &impl ConnectionTrait, name: &str) -> Result<Template, Error> {
    let row = template::Entity::find().filter(template::Column::Name.eq(name)).one(db).await?;
    match row {
        Some(row) => Ok(read(row)?),
        None if name == DEFAULT => Ok(Template::local()),
        None => Err(Error::NotFound(name.to_owned())),
    }
}

/// Makes sure that a template is there and stays until the transaction ends: a session is made from it.
pub(crate) async fn hold(db: &impl ConnectionTrait, name: &str) -> Result<(), Error> {
    let row = template::Entity::find().filter(template::Column::Name.eq(name)).lock_shared().one(db).await?;
    if row.is_some() || name == DEFAULT { Ok(()) } else { Err(Error::NotFound(name.to_owned())) }
}
