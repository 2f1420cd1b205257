//! Templates: what sessions are made from. Everyone may see them, administrators change them.

use super::openapi::{Part, ProblemBody};
use super::problem::Problem;
use super::request::{JSON_BYTES, Request};
use super::route::{Access, Route};
use crate::app::App;
use crate::config::RuntimeKind;
use crate::templates::{Error, Template, check};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/api/templates", Access::SignedIn, list),
        Route::new(Method::GET, "/api/templates/{name}", Access::SignedIn, get),
        Route::new(Method::PUT, "/api/templates/{name}", Access::Admin, put),
        Route::new(Method::DELETE, "/api/templates/{name}", Access::Admin, delete),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(list, get, put, delete))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

fn refused(why: Error) -> Problem {
    match why {
        Error::NotFound(name) => Problem::not_found(
            "no_such_template",
            format!("There is no template named {name:?}. `GET /api/templates` lists what there is."),
        ),
        Error::BuiltIn => Problem::conflict(
            "template_built_in",
            "The template `default` is what sessions that name none are made from. It can be changed, not deleted.",
        ),
        Error::InUse { name, count, sessions } => {
            let names: Vec<_> = sessions.iter().map(|(_, name)| format!("{name:?}")).collect();
            let more = if count as usize > names.len() { ", …" } else { "" };
            let detail = format!(
                "The template {name:?} is used by {count} sessions: {}{more}. Nothing was changed; delete them first, or \
                 change the template.",
                names.join(", ")
            );
            let sessions: Vec<_> =
                sessions.iter().map(|(id, name)| json!({"uuid": id.0, "name": name})).collect();
            Problem::conflict("template_in_use", detail).with("sessions", sessions)
        }
        Error::TooMany => Problem::conflict(
            "too_many_templates",
            format!(
                "There are {} templates, as many as fit. Delete one first.",
                crate::templates::records::COUNT_MOST
            ),
        ),
        Error::Database(why) => super::database(why),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Templates)]
struct TemplatesBody {
    /// By name.
    templates: Vec<Template>,
}

/// What sessions can be made from.
#[utoipa::path(get, path = "/api/templates", tag = "templates", responses((status = 200, body = TemplatesBody)))]
async fn list(app: App, _: Request) -> Result<Response, Problem> {
    let templates = app.templates.list().await.map_err(refused)?;
    Ok(warp::reply::json(&TemplatesBody { templates }).into_response())
}

/// One template. What is answered may be changed and sent back.
#[utoipa::path(get, path = "/api/templates/{name}", tag = "templates", params(("name" = String, Path)), responses(
    (status = 200, body = Template),
    (status = 404, description = "`no_such_template`", body = ProblemBody),
))]
async fn get(app: App, request: Request) -> Result<Response, Problem> {
    let template = app.templates.get(&request.param("name")?).await.map_err(refused)?;
    Ok(warp::reply::json(&template).into_response())
}

/// Make a template, or replace it whole. What is left out takes its usual value. For administrators.
///
/// Sessions that run keep the machine they have until their next start; how long they may be idle follows at once.
/// Pods that wait to be taken and have another shape are replaced.
#[utoipa::path(put, path = "/api/templates/{name}", tag = "templates", params(("name" = String, Path)), request_body = Template, responses(
    (status = 200, description = "Replaced", body = Template),
    (status = 201, description = "Made", body = Template),
    (status = 400, description = "`bad_template`, whose `faults` name each member that is wrong and what is allowed; `bad_json`, `bad_request`", body = ProblemBody),
    (status = 403, description = "`not_an_admin`", body = ProblemBody),
    (status = 409, description = "`too_many_templates`", body = ProblemBody),
))]
async fn put(app: App, mut request: Request) -> Result<Response, Problem> {
    let name = request.param("name")?;
    let mut template: Template = request.json(JSON_BYTES).await?;
    if template.name.is_empty() {
        template.name.clone_from(&name);
    }
    if template.name != name {
        return Err(Problem::bad(
            "bad_template",
            "The template's name is another than the one in the address. Nothing was changed; leave one out.",
        ));
    }
    let faults = check::faults(&template, app.settings.runtime != RuntimeKind::Local);
    if let Some(first) = faults.first() {
        let more = match faults.len() {
            1 => String::new(),
            n => format!(" {} more are listed in `faults`.", n - 1),
        };
        let detail = format!("`{}`: {}{more} Nothing was changed.", first.field, first.message);
        let faults: Vec<_> =
            faults.iter().map(|fault| json!({"field": fault.field, "message": fault.message})).collect();
        return Err(Problem::bad("bad_template", detail).with("faults", faults));
    }
    let new = app.templates.put(&template).await.map_err(refused)?;
    tracing::info!(request_id = %request.id, template = name, new, "template written");
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(warp::reply::with_status(warp::reply::json(&template), status).into_response())
}

/// Delete a template that no session is made from. For administrators.
#[utoipa::path(delete, path = "/api/templates/{name}", tag = "templates", params(("name" = String, Path)), responses(
    (status = 204, description = "Gone"),
    (status = 403, description = "`not_an_admin`", body = ProblemBody),
    (status = 404, description = "`no_such_template`", body = ProblemBody),
    (status = 409, description = "`template_in_use`, whose `sessions` name some of them; `template_built_in`", body = ProblemBody),
))]
async fn delete(app: App, request: Request) -> Result<Response, Problem> {
    let name = request.param("name")?;
    app.templates.delete(&name).await.map_err(refused)?;
    tracing::info!(request_id = %request.id, template = name, "template deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}
