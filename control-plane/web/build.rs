//! Builds the page with Vite and lists its files for embedding.
//!
//! Nothing is written beside the sources: they are copied to `OUT_DIR`, and npm and
//! Vite run there, only when an input changed since the last build.
//!
//! - `BERTH_WEB_DIST=/path` embeds a ready build (what `npm run build` wrote) instead.
//! - `BERTH_WEB_SKIP=1` embeds a page that says it was not built: for work on Rust alone.

#![expect(clippy::print_stderr, reason = "a build script tells what went wrong on stderr")]

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the page is made of, beside this file.
const INPUTS: &[&str] = &[
    ".npmrc",
    "index.html",
    "package.json",
    "package-lock.json",
    "svelte.config.js",
    "tsconfig.json",
    "vite.config.ts",
    "page",
    "public",
    "scripts",
];

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Berth</title>\
    <h1>The page was not built</h1><p>This server was compiled with <code>BERTH_WEB_SKIP=1</code>. \
    Its API works; compile it without that setting to get the page.</p></html>";

fn main() {
    if let Err(error) = run() {
        // Cargo shows only stderr of a failed build script, and only if it fails.
        eprintln!("\nerror: the page could not be built: {error}\n");
        eprintln!("The page needs Node 20.19 or newer with npm. Other ways:");
        eprintln!("  BERTH_WEB_DIST=/path/to/dist   embed a page that was built elsewhere (npm run build)");
        eprintln!("  BERTH_WEB_SKIP=1               embed no page: the API alone\n");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    for variable in ["BERTH_WEB_DIST", "BERTH_WEB_SKIP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let dist = if let Some(ready) = env::var_os("BERTH_WEB_DIST").filter(|v| !v.is_empty()) {
        let ready = PathBuf::from(ready);
        println!("cargo::rerun-if-changed={}", ready.display());
        if !ready.join("index.html").is_file() {
            return Err(format!("BERTH_WEB_DIST is {}, which holds no index.html", ready.display()).into());
        }
        let copy = out.join("ready");
        replace(&ready, &copy)?;
        copy
    } else if env::var("BERTH_WEB_SKIP").is_ok_and(|v| v == "1") {
        let none = out.join("none");
        fs::create_dir_all(&none)?;
        fs::write(none.join("index.html"), NOT_BUILT)?;
        none
    } else {
        for input in INPUTS {
            println!("cargo::rerun-if-changed={input}");
        }
        build(&source, &out)?
    };
    fs::write(out.join("assets.rs"), list(&dist)?)?;
    Ok(())
}

/// Runs npm and Vite in a copy below `out`, unless that was done for the same inputs.
fn build(source: &Path, out: &Path) -> Result<PathBuf> {
    let work = out.join("page");
    let dist = work.join("dist");
    let stamp = out.join("built");
    let inputs = hash_of(INPUTS.iter().map(|input| source.join(input)))?;
    if dist.join("index.html").is_file() && fs::read_to_string(&stamp).is_ok_and(|s| s == inputs) {
        return Ok(dist);
    }
    let _ = fs::remove_file(&stamp);
    fs::create_dir_all(&work)?;
    for input in INPUTS {
        replace(&source.join(input), &work.join(input))?;
    }

    let installed = work.join("node_modules/.berth");
    let packages = hash_of(["package.json", "package-lock.json"].map(|f| source.join(f)))?;
    if !fs::read_to_string(&installed).is_ok_and(|s| s == packages) {
        // Scripts of packages do not run: none of ours needs one.
        let flags = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--loglevel=error"];
        npm(&work, &flags)?;
        fs::write(&installed, packages)?;
    }
    npm(&work, &["run", "--silent", "build"])?;
    fs::write(stamp, inputs)?;
    Ok(dist)
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<()> {
    let program = if cfg!(windows) { "npm.cmd" } else { "npm" };
    let ran = Command::new(program).args(arguments).current_dir(folder).output();
    let output = match ran {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("npm was not found on the PATH".into());
        }
        Err(error) => return Err(format!("npm could not be started: {error}").into()),
    };
    if output.status.success() {
        return Ok(());
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("`npm {}` failed ({}):\n{stdout}{stderr}", arguments.join(" "), output.status).into())
}

/// The generated table: one `Asset` a file, sorted by path.
fn list(dist: &Path) -> Result<String> {
    let mut files = Vec::new();
    walk(dist, &mut files)?;
    let mut paths: Vec<(String, PathBuf)> = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(dist)?
            .to_str()
            .ok_or("a file name of the page is not UTF-8")?
            .replace('\\', "/");
        let packed = name.strip_suffix(".gz").or(name.strip_suffix(".br"));
        if name != "index.html" && name != "manifest.json" && !packed.is_some_and(|p| dist.join(p).is_file())
        {
            paths.push((format!("/{name}"), file));
        }
    }
    paths.sort();
    let mut code = format!("const INDEX: &str = include_str!({:?});\n", dist.join("index.html"));
    code.push_str("static ASSETS: &[Asset] = &[\n");
    for (path, file) in paths {
        let packed = |ending: &str| {
            let packed = PathBuf::from(format!("{}{ending}", file.display()));
            if packed.is_file() { format!("Some(include_bytes!({packed:?}))") } else { "None".to_owned() }
        };
        writeln!(
            code,
            "Asset {{ path: {path:?}, content_type: {:?}, etag: {:?}, immutable: {}, identity: include_bytes!({file:?}), gzip: {}, br: {} }},",
            content_type(&path),
            format!("\"{}\"", hash_of([file.clone()])?),
            path.starts_with("/assets/"),
            packed(".gz"),
            packed(".br"),
        )?;
    }
    code.push_str("];\n");
    Ok(code)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "webmanifest" => "application/manifest+json",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Names and contents of files and folders in one number: to notice a change, not to resist a forger.
fn hash_of(roots: impl IntoIterator<Item = PathBuf>) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for root in roots {
        let mut files = Vec::new();
        walk(&root, &mut files)?;
        files.sort();
        for file in files {
            file.strip_prefix(&root)?.hash(&mut hasher);
            fs::read(&file)?.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// All files at or below `path`.
fn walk(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        walk(&entry?.path(), files)?;
    }
    Ok(())
}

/// Makes `to` an exact copy of `from`: what an earlier copy left is gone.
fn replace(from: &Path, to: &Path) -> Result<()> {
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    let mut files = Vec::new();
    walk(from, &mut files)?;
    for file in files {
        let target = if from.is_dir() { to.join(file.strip_prefix(from)?) } else { to.to_owned() };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, target)?;
    }
    Ok(())
}
