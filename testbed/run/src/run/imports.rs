//! Prints the imports of a driver file.

use std::{
    io::{self, Write},
    path::Path,
};

use super::RunError;
use testbed_loader::{Image, Import};

/// Prints the imports of a driver file, by module.
///
/// # Errors
/// The file cannot be read or parsed, or the output cannot be written.
pub fn print_imports(driver: &Path, out: &mut dyn Write) -> Result<(), RunError> {
    for (module, functions) in by_module(&Image::imports_of(driver)?) {
        writeln!(out, "{module} ({})", functions.len())?;
        for function in functions {
            let mark = if testbed_storport::is_prohibited(&module, function) {
                "   <- prohibited for physical miniports"
            } else {
                ""
            };
            writeln!(out, "  {function}{mark}")?;
        }
    }
    Ok(())
}

/// Groups functions by module, in the file's order, with the port driver first.
fn by_module(imports: &[Import]) -> Vec<(String, Vec<&str>)> {
    let mut modules: Vec<(String, Vec<&str>)> = Vec::new();
    for import in imports {
        let module = import.module.to_ascii_lowercase();
        match modules.iter_mut().find(|(name, _)| *name == module) {
            Some((_, functions)) => functions.push(&import.function),
            None => modules.push((module, vec![&import.function])),
        }
    }
    modules.sort_by_key(|(name, _)| name != testbed_storport::MODULE);
    modules
}

pub(super) fn print_driver(
    driver: &Path,
    imports: &[Import],
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "driver    {}", driver.display())?;
    let modules = by_module(imports);
    if modules.is_empty() {
        writeln!(out, "imports   none")?;
    }
    for (module, functions) in modules {
        let mark = if module == testbed_storport::MODULE {
            ""
        } else {
            "   <- not the port driver"
        };
        let title = format!("imports   {module} ({}):", functions.len());
        writeln!(out, "{title}{mark}")?;
        for line in wrapped(&functions, 68) {
            writeln!(out, "          {line}")?;
        }
    }
    Ok(())
}

/// Joins the words with commas, and wraps them in lines of at most `width` characters.
fn wrapped(words: &[&str], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + word.len() <= width => {
                line.push_str(", ");
                line.push_str(word);
            }
            Some(line) => {
                line.push(',');
                lines.push((*word).to_owned());
            }
            None => lines.push((*word).to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use testbed_loader::sample::Sample;

    fn import(module: &str, function: &str) -> Import {
        Import {
            module: module.to_owned(),
            function: function.to_owned(),
        }
    }

    #[test]
    fn imports_are_grouped_by_module_and_the_port_driver_comes_first() {
        let imports = [
            import("ntoskrnl.exe", "KeBugCheckEx"),
            import("STORPORT.SYS", "StorPortInitialize"),
            import("storport.sys", "StorPortNotification"),
        ];
        assert_eq!(
            by_module(&imports),
            [
                (
                    "storport.sys".to_owned(),
                    vec!["StorPortInitialize", "StorPortNotification"]
                ),
                ("ntoskrnl.exe".to_owned(), vec!["KeBugCheckEx"]),
            ]
        );
    }

    #[test]
    fn the_imports_of_a_file_are_printed_and_strangers_marked() {
        let sample = Sample {
            imports: vec![
                ("ntoskrnl.exe", "KeBugCheckEx"),
                ("storport.sys", "StorPortInitialize"),
                ("storport.sys", "StorPortNotification"),
            ],
            ..Sample::default()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.sys");
        std::fs::write(&file, sample.file()).expect("a file");
        let mut listed = Vec::new();
        let mut marked = Vec::new();

        print_imports(&file, &mut listed).expect("it is a driver");
        let imports = Image::imports_of(&file).expect("it is a driver");
        print_driver(Path::new("some.sys"), &imports, &mut marked).expect("it is printed");

        assert_eq!(
            String::from_utf8_lossy(&listed),
            "storport.sys (2)\n  StorPortInitialize\n  StorPortNotification\n\
             ntoskrnl.exe (1)\n  KeBugCheckEx\n"
        );
        assert_eq!(
            String::from_utf8_lossy(&marked),
            "driver    some.sys\n\
             imports   storport.sys (2):\n\
             \x20         StorPortInitialize, StorPortNotification\n\
             imports   ntoskrnl.exe (1):   <- not the port driver\n\
             \x20         KeBugCheckEx\n"
        );
    }

    #[test]
    fn long_lists_are_wrapped_at_words() {
        assert_eq!(
            wrapped(&["one", "two", "three", "four"], 10),
            ["one, two,", "three,", "four"]
        );
        assert!(wrapped(&[], 10).is_empty());
    }
}
