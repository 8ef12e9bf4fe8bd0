name     = "a"
data_dir = "data/a"

proxy {
  listen            = ["127.0.0.1:8080", "127.0.0.1", 8081, "127.0.0.1:70000"]
  protocols         = ["socks4", "https"]
  socks5_names_only = "yes"
}
