//! `artifactdb sample`: the sample data of the tour, made from what is at hand: the Palmer penguins
//! (Horst, Hill and Gorman; CC0) and the packages of this workspace's own lock file.
//!
//! Two versions of each, the second mostly equal to the first, so that uploading it links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use md5::{Digest, Md5};
use serde_json::{Value, json};

const PENGUINS: &str = include_str!("../data/penguins.csv");
/// Columns of the penguins that hold numbers.
const NUMBERS: [&str; 5] = [
    "bill_length_mm",
    "bill_depth_mm",
    "flipper_length_mm",
    "body_mass_g",
    "year",
];

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, content).with_context(|| format!("cannot write '{}'", path.display()))
}

fn write_pair(root: &Path, name: &str, content: &[u8], mut metadata: Value) -> anyhow::Result<()> {
    metadata["path"] = json!(name);
    metadata["md5sum"] = json!(hex::encode(Md5::digest(content)));
    write(&root.join(name), content)?;
    write(
        &root.join(format!("{name}.json")),
        serde_json::to_string_pretty(&metadata)?.as_bytes(),
    )
}

/// Writes `penguins/{1,2}` below `out`: a table for each species and island. Version 2 leaves out
/// the birds that were not measured.
pub fn penguins(out: &Path) -> anyhow::Result<usize> {
    let mut lines = PENGUINS.lines();
    let header = lines.next().unwrap_or_default();
    let columns: Vec<&str> = header.split(',').collect();
    let mut tables: BTreeMap<(&str, &str), Vec<Vec<&str>>> = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let [species, island, ..] = cells.as_slice() else {
            return Err(anyhow!("a line of the penguins is too short: {line}"));
        };
        tables.entry((species, island)).or_default().push(cells);
    }
    let mut written = 0;
    for version in [1, 2] {
        let root = out.join("penguins").join(version.to_string());
        for ((species, island), rows) in &tables {
            let rows: Vec<&Vec<&str>> = rows
                .iter()
                .filter(|row| version == 1 || !row[2..6].contains(&"NA"))
                .collect();
            let mut table = format!("{header}\n");
            for row in &rows {
                table.push_str(&row.join(","));
                table.push('\n');
            }
            let name = format!("{}/{}.csv", species.to_lowercase(), island.to_lowercase());
            write_pair(
                &root,
                &name,
                table.as_bytes(),
                describe(species, island, &columns, &rows),
            )?;
            written += 1;
        }
    }
    Ok(written)
}

fn describe(species: &str, island: &str, columns: &[&str], rows: &[&Vec<&str>]) -> Value {
    let cells = |at: usize| rows.iter().filter_map(move |row| row.get(at).copied());
    let described: Vec<Value> = columns
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let kind = if NUMBERS.contains(name) {
                "number"
            } else {
                "text"
            };
            let missing = cells(at).filter(|cell| *cell == "NA").count();
            json!({"name": name, "type": kind, "missing": missing})
        })
        .collect();
    let masses: Vec<f64> = cells(5).filter_map(|cell| cell.parse().ok()).collect();
    let mean = masses.iter().sum::<f64>() / masses.len().max(1) as f64;
    let years = cells(7).filter_map(|cell| cell.parse::<u32>().ok());
    let first = years.min().unwrap_or(2007);
    json!({
        "$schema": "table/v1.json",
        "title": format!("{species} penguins of {island} island"),
        "description": "Size measurements of adult foraging penguins near Palmer Station, Antarctica",
        "species": species,
        "island": island,
        "rows": rows.len(),
        "mean_body_mass_g": (mean * 10.0).round() / 10.0,
        "collected": format!("{first}-11-01T00:00:00Z"),
        "complete": !rows.iter().any(|row| row.contains(&"NA")),
        "license": "CC0-1.0",
        "authors": ["Allison Horst", "Alison Hill", "Kristen Gorman"],
        "columns": described,
    })
}

/// Writes `packages/{1,2}` below `out` from the output of `cargo metadata`: version 2 holds every
/// package, version 1 those whose name starts in the first half of the alphabet.
pub fn packages(metadata: &Value, out: &Path) -> anyhow::Result<usize> {
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .ok_or_else(|| anyhow!("this is not the output of `cargo metadata --format-version 1`"))?;
    let mut written = 0;
    let mut seen = BTreeSet::new();
    for package in packages {
        let text = |name: &str| package.get(name).and_then(Value::as_str);
        let (Some(name), Some(version)) = (text("name"), text("version")) else {
            continue;
        };
        let file = format!("{name}-{version}.toml");
        if !seen.insert(file.clone()) {
            continue;
        }
        let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
        let content = std::fs::read(&manifest)
            .with_context(|| format!("cannot read '{}'", manifest.display()))?;
        let document = describe_package(package, name, version);
        let early = name
            .chars()
            .next()
            .is_some_and(|c| c.to_ascii_lowercase() < 'n');
        for number in [1, 2] {
            if number == 2 || early {
                let root = out.join("packages").join(number.to_string());
                write_pair(&root, &file, &content, document.clone())?;
                written += 1;
            }
        }
    }
    Ok(written)
}

fn describe_package(package: &Value, name: &str, version: &str) -> Value {
    let texts = |name: &str| -> Vec<&str> {
        package
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    };
    let mut dependencies: Vec<&str> = package
        .get("dependencies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|dependency| dependency.get("name")?.as_str())
        .collect();
    dependencies.sort_unstable();
    dependencies.dedup();
    let mut document = json!({
        "$schema": "package/v1.json",
        "name": name,
        "version": version,
        "authors": texts("authors"),
        "keywords": texts("keywords"),
        "dependency_count": dependencies.len(),
        "dependencies": dependencies,
    });
    for field in ["license", "description", "repository", "edition"] {
        if let Some(text) = package.get(field).and_then(Value::as_str) {
            document[field] = json!(text.trim());
        }
    }
    document
}
