//! What benches print: a row for each figure, beside its limit where it has one.

use std::process::ExitCode;

#[derive(Clone, Copy)]
pub enum Limit {
    /// One that is missed is told, and fails nothing.
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Default)]
pub struct Table {
    missed: usize,
}

impl Table {
    pub fn row(&mut self, name: &str, value: f64, limit: Option<Limit>) {
        let (wanted, met) = match limit {
            None => (String::new(), true),
            Some(Limit::AtLeast(least)) => (format!("at least {least}"), value >= least),
            Some(Limit::AtMost(most)) => (format!("at most {most}"), value <= most),
        };
        let told = match (&*wanted, met) {
            ("", _) => "",
            (_, true) => "met",
            (_, false) => "MISSED",
        };
        self.missed += usize::from(!met && matches!(limit, Some(Limit::AtMost(_))));
        println!("{name:<45} {value:>9.2}  {wanted:<13} {told}");
    }

    pub fn end(&self) -> ExitCode {
        match self.missed {
            0 => ExitCode::SUCCESS,
            missed => {
                println!("{missed} missed");
                ExitCode::FAILURE
            }
        }
    }
}
