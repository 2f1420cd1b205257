//! Templates in each database.

use crate::on_each_database;
use control_plane::templates::{DEFAULT, Error, Template, Templates};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

on_each_database!(the_default_follows_the_settings_until_somebody_changes_it, |it| {
    let templates = Templates::new(it.store.database().clone());
    assert_eq!(
        templates.get(DEFAULT).await.unwrap(),
        Template::local(),
        "a database that was given none has one"
    );
    let one = Template::new(DEFAULT, "registry.example/a:1");
    let two = Template { image: "registry.example/a:2".into(), ..one.clone() };
    templates.provide_default(&one).await.unwrap();
    assert_eq!(templates.get(DEFAULT).await.unwrap(), one);
    templates.provide_default(&two).await.unwrap();
    assert_eq!(templates.get(DEFAULT).await.unwrap(), two);
    let mine = Template { idle_s: 600, ..two.clone() };
    assert!(!templates.put(&mine).await.unwrap(), "replaced, not made");
    templates.provide_default(&one).await.unwrap();
    assert_eq!(templates.get(DEFAULT).await.unwrap(), mine);
    assert!(matches!(templates.delete(DEFAULT).await, Err(Error::BuiltIn)));
});

on_each_database!(one_in_use_stays_and_names_who_uses_it, |it| {
    let database = it.store.database().clone();
    let templates = Templates::new(database.clone());
    let python = Template::new("python", "registry.example/python:3");
    assert!(templates.put(&python).await.unwrap());
    let big = Template { warm: 3, ..python.clone() };
    assert!(!templates.put(&big).await.unwrap());
    assert_eq!(templates.list().await.unwrap(), [big]);
    use control_plane::entities::session;
    session::Entity::update_many()
        .col_expr(session::Column::Template, Expr::value("python"))
        .filter(session::Column::Uuid.eq(it.session.0))
        .exec(database.writer())
        .await
        .unwrap();
    match templates.delete("python").await {
        Err(Error::InUse { count: 1, sessions, .. }) => assert_eq!(sessions[0].0, it.session),
        other => panic!("{other:?}"),
    }
    session::Entity::update_many()
        .col_expr(session::Column::DeletedAt, Expr::value(1))
        .filter(session::Column::Uuid.eq(it.session.0))
        .exec(database.writer())
        .await
        .unwrap();
    templates.delete("python").await.unwrap();
    assert!(matches!(templates.delete("python").await, Err(Error::NotFound(_))));
});
