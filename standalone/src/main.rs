//! The command line. Parsing and printing; the work is in the library.

fn main() {
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        tracing_subscriber::fmt().with_env_filter("info").init();
        let args: Vec<String> = std::env::args().collect();
        let i = artifactdb::serve::start(&artifactdb::serve::ServeOptions { files: vec![args[1].clone().into()], data: args[2].clone().into(), listen: "127.0.0.1:8000".into(), s3_listen: "localhost:0".into(), ready_file: Some("/tmp/ready.json".into()) }).await.unwrap();
        println!("{} {}", i.url, i.token);
        tokio::signal::ctrl_c().await.unwrap();
        i.stop().await;
    });
}
