//! The documentation page: the OpenAPI document as plain HTML, rendered here, without any script.

use super::openapi;
use super::page::{escape, html, nonce};
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route, Speaks};
use crate::app::App;
use http::{Method, StatusCode};
use serde_json::Value;
use std::fmt::Write;
use std::sync::LazyLock;
use warp::reply::Response;

pub fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/api/docs", Access::Public, docs).speaks(Speaks::Page)]
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#d0d7de;--muted:#57606a;--accent:#0969da;--code:#f6f8fa}\
@media(prefers-color-scheme:dark){:root{--line:#30363d;--muted:#9aa4b0;--accent:#58a6ff;--code:#151b23}}\
body{font:14px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:24px 16px 64px}\
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}\
h1{font-size:20px}h2{font-size:16px;margin-top:40px}h3{font-size:14px;margin:24px 0 4px}\
section{border-top:1px solid var(--line);padding:4px 0 12px}p{margin:8px 0}a{color:var(--accent)}\
code,pre{font:13px/1.5 ui-monospace,'SF Mono',Menlo,Consolas,monospace;background:var(--code);border-radius:4px;padding:1px 4px}\
pre{padding:12px;overflow:auto;white-space:pre}pre code{padding:0}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-top:1px solid var(--line)}th{font-weight:600}\
.m{color:var(--muted)}h3 b{display:inline-block;min-width:4rem}";

/// What stands between `<body>` and its end; the document never changes while the server runs.
static BODY: LazyLock<String> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(&openapi::JSON).unwrap_or_default();
    body(&document)
});

async fn docs(_: App, _: Request) -> Result<Response, Problem> {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let document = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Berth's API</title><style nonce=\"{nonce}\">{STYLE}</style><body>{}</body></html>",
        *BODY
    );
    Ok(html(StatusCode::OK, document, &policy))
}

fn body(document: &Value) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<h1>Berth's API</h1><p class=\"m\">Version {} · <a href=\"/api/openapi.json\">openapi.json</a></p>{}",
        text(&document["info"]["version"]),
        markdown(text(&document["info"]["description"]))
    );
    let mut operations: Vec<(&str, &str, &Value)> = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            operations.push((path, method, operation));
        }
    }
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = text(&tag["name"]);
        let _ = write!(out, "<h2 id=\"{0}\">{1}</h2>", escape(name), escape(text(&tag["description"])));
        for (path, method, operation) in
            operations.iter().filter(|(_, _, operation)| operation["tags"][0] == name)
        {
            operation_section(&mut out, document, path, method, operation);
        }
    }
    out
}

fn operation_section(out: &mut String, document: &Value, path: &str, method: &str, operation: &Value) {
    let _ = write!(
        out,
        "<section><h3 id=\"{0}\"><b>{1}</b> <code>{2}</code></h3><p>{3}</p>{4}",
        escape(text(&operation["operationId"])),
        method.to_uppercase(),
        escape(path),
        escape(text(&operation["summary"])),
        markdown(text(&operation["description"]))
    );
    let parameters: Vec<&Value> =
        operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] != "path").collect();
    if !parameters.is_empty() {
        out.push_str("<table>");
        for parameter in parameters {
            let _ = write!(
                out,
                "<tr><td><code>{}</code> <span class=\"m\">{}</span><td>{}",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                inline(text(&parameter["description"]))
            );
        }
        out.push_str("</table>");
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        for (kind, body) in content {
            let _ = write!(out, "<p class=\"m\">Body: {}</p>", escape(kind));
            schema(out, document, &body["schema"]);
        }
    }
    out.push_str("<table>");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(
            out,
            "<tr><td><code>{}</code><td>{}",
            escape(status),
            inline(text(&response["description"]))
        );
        for (kind, body) in response["content"].as_object().into_iter().flatten() {
            if kind != "application/problem+json"
                && !body["schema"]["$ref"].as_str().is_some_and(|name| name.ends_with("/Problem"))
            {
                schema(out, document, &body["schema"]);
            }
        }
    }
    out.push_str("</table></section>");
}

/// An object's members, one level deep: what a reader needs to write a request.
fn schema(out: &mut String, document: &Value, schema: &Value) {
    let resolved = resolve(document, schema);
    let Some(members) = resolved["properties"].as_object() else { return };
    let required: Vec<&str> =
        resolved["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.push_str("<table>");
    for (name, member) in members {
        let optional = if required.contains(&name.as_str()) { "" } else { " optional" };
        let member_type = kind(document, member);
        let _ = write!(
            out,
            "<tr><td><code>{}</code> <span class=\"m\">{}{optional}</span><td>{}",
            escape(name),
            escape(&member_type),
            inline(text(&member["description"]))
        );
    }
    out.push_str("</table>");
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn kind(document: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or_default().to_owned();
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("[{}]", kind_of_items(document, schema)),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|kind| *kind != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ => String::new(),
    }
}

fn kind_of_items(document: &Value, schema: &Value) -> String {
    kind(document, &schema["items"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The little Markdown that our descriptions use: paragraphs, fenced code, `code` and **bold**.
fn markdown(source: &str) -> String {
    let mut out = String::new();
    for (i, block) in source.split("```").enumerate() {
        if i % 2 == 1 {
            let code = block.split_once('\n').map_or(block, |(_, code)| code);
            let _ = write!(out, "<pre><code>{}</code></pre>", escape(code));
        } else {
            for paragraph in block.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
                let _ = write!(out, "<p>{}</p>", inline(paragraph.trim()));
            }
        }
    }
    out
}

fn inline(source: &str) -> String {
    let mut out = String::new();
    for (i, part) in source.split('`').enumerate() {
        if i % 2 == 1 {
            let _ = write!(out, "<code>{}</code>", escape(part));
        } else {
            for (j, bold) in part.split("**").enumerate() {
                let (open, close) = if j % 2 == 1 { ("<b>", "</b>") } else { ("", "") };
                let _ = write!(out, "{open}{}{close}", escape(bold));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_description_becomes_markup() {
        assert_eq!(inline("a `<b>` **x** <i>"), "a <code>&lt;b&gt;</code> <b>x</b> &lt;i&gt;");
        assert_eq!(markdown("a\n\n```sh\n<x>\n```"), "<p>a</p><pre><code>&lt;x&gt;\n</code></pre>");
    }
}
