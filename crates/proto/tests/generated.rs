//! The committed gRPC code is what the generator makes of the .proto file.

#[path = "../examples/generate.rs"]
mod generate;

#[test]
fn generated_code_is_fresh() {
    let dir = generate::crate_dir();
    let expected = generate::generate(&dir).expect("the .proto file compiles");
    let found = std::fs::read_to_string(dir.join(generate::OUTPUT))
        .expect("the generated file is committed");
    assert!(
        found == expected,
        "{} is stale: run `cargo run -p carrick-proto --example generate`",
        generate::OUTPUT
    );
}
