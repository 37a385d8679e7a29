//! Tokens, caption cleaning, prompt chains: `t5/tokenizer` and `t5/text`.

use std::path::Path;

use residua::text::clean::{clean_caption, clean_once, lower_strip};
use residua::text::prompt::{Scores, Segments};
use residua::text::tokenizer::Tokenizer;
use serde_json::Value;

use super::{Report, files, json, name, root};

pub fn run(report: &mut Report) {
    let t5 = root().join("t5");
    tokenizers(report, &t5.join("tokenizer"));
    for path in files(&t5.join("text"), "json") {
        let case = format!("t5/text/{}", name(&path));
        if !report.wants(&case) {
            continue;
        }
        match name(&path).as_str() {
            "clean_caption" => rows(report, &case, &json(&path), clean_row),
            "prompt_chain" => rows(report, &case, &json(&path), chain_row),
            _ => report.skip(&case, "no test reads this file"),
        }
    }
}

fn tokenizers(report: &mut Report, dir: &Path) {
    for file in ["spiece.model", "tokenizer.json"] {
        let path = dir.join(file);
        if !path.exists() {
            continue;
        }
        let tokenizer = Tokenizer::from_file(&path);
        for cases in files(dir, "json") {
            let case = format!("t5/tokenizer/{}/{file}", name(&cases));
            // the tokenizer itself lies among its cases
            if !report.wants(&case) || ["tokenizer", "tokenizer_config", "special_tokens_map"].contains(&&*name(&cases))
            {
                continue;
            }
            let tokenizer = match &tokenizer {
                Ok(tokenizer) => tokenizer,
                Err(e) => {
                    report.exact(&case, false, e);
                    continue;
                }
            };
            match name(&cases).as_str() {
                // a SentencePiece model knows nothing of special tokens written out: it is judged on its own column
                "cases" => {
                    let column = if file == "spiece.model" { "ids_sentencepiece" } else { "ids" };
                    rows(report, &case, &json(&cases)["cases"], |row| {
                        let got = tokenizer.encode(text(row, "text"), usize::MAX);
                        equal(column, &ids(&row[column]), &got)
                    });
                }
                "padded" => rows(report, &case, &json(&cases), |row| padded_row(tokenizer, row)),
                _ => report.skip(&case, "no test reads this file"),
            }
        }
    }
}

fn padded_row(tokenizer: &Tokenizer, row: &Value) -> Result<(), String> {
    let length = row["max_length"].as_u64().unwrap() as usize;
    let texts = row["texts"].as_array().unwrap();
    for (i, sentence) in texts.iter().enumerate() {
        let mut got = tokenizer.encode(sentence.as_str().unwrap(), length);
        let mut mask = vec![1; got.len()];
        got.resize(length, 0);
        mask.resize(length, 0);
        equal("ids", &ids(&row["input_ids"][i]), &got)?;
        equal("mask", &ids(&row["attention_mask"][i]), &mask)?;
    }
    Ok(())
}

fn clean_row(row: &Value) -> Result<(), String> {
    let input = text(row, "text");
    equal("clean_once", text(row, "clean_once"), &clean_once(input))?;
    equal("preprocessed", text(row, "preprocessed"), &clean_caption(input))?;
    equal("lower_strip", text(row, "lower_strip"), &lower_strip(input))
}

fn chain_row(row: &Value) -> Result<(), String> {
    let scores = Scores {
        aesthetic: row["aes"].as_f64(),
        motion: row["flow"].as_f64(),
        camera_motion: row["camera_motion"].as_str().map(str::to_string),
    };
    let segments = Segments::split(text(row, "prompt")).map_err(|e| e.to_string())?;
    equal("segments", &strings(&row["segments"]), &segments.texts)?;
    equal("loop_idx", &indices(&row["loop_idx"]), &segments.starts)?;
    let scored = segments.map(|t| scores.append(t));
    equal("scored", &strings(&row["scored"]), &scored.texts)?;
    let cleaned = scored.map(clean_caption);
    equal("cleaned", &strings(&row["cleaned"]), &cleaned.texts)?;
    equal("merged", text(row, "merged"), &cleaned.merged())?;
    per_loop(&row["per_loop"], &cleaned)
}

/// The texts of clips 0, 1, … of a prompt.
pub fn per_loop(expected: &Value, segments: &Segments) -> Result<(), String> {
    let expected = strings(expected);
    let got: Vec<String> = (0..expected.len()).map(|k| segments.at(k).to_string()).collect();
    equal("per_loop", &expected, &got)
}

/// One line for a list of rows; a row marked `needs` may differ, and is then named as skipped.
pub fn rows(report: &mut Report, case: &str, rows: &Value, check: impl Fn(&Value) -> Result<(), String>) {
    let rows = rows.as_array().unwrap_or_else(|| panic!("{case}: no list of rows"));
    let mut wrong = Vec::new();
    let mut agree = 0;
    for (i, row) in rows.iter().enumerate() {
        // without the feature wrongly decoded text stays as it is, whether a file marks it or not
        let repair = !cfg!(feature = "clean-text") && ["Ã", "â€"].iter().any(|&mark| row.to_string().contains(mark));
        match (check(row), row["needs"].as_str().or(repair.then_some("the feature `clean-text`"))) {
            (Ok(()), _) => agree += 1,
            (Err(e), None) => wrong.push(format!("row {i}: {e}")),
            (Err(e), Some(needs)) => report.skip(&format!("{case}/{i}"), format!("needs {needs}; {e}")),
        }
    }
    let note = format!("{agree} of {} rows", rows.len());
    report.exact(case, wrong.is_empty() && agree > 0, [vec![note], wrong].concat().join("\n     "));
}

/// `Err` with both sides if they differ.
pub fn equal<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, expected: &T, got: &T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what} {got:?}, expected {expected:?}")) }
}

/// A string field of a row.
pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no string `{field}` in {row}"))
}

/// A list of strings.
pub fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_string()).collect()
}

/// A list of indices, or null.
pub fn indices(list: &Value) -> Option<Vec<usize>> {
    list.as_array().map(|list| list.iter().map(|i| i.as_u64().unwrap() as usize).collect())
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect()
}
