data_dir = "data/a"

proxy = {
  listen = "127.0.0.1:8080"
}

cluster "main" {
  join {
    address = "127.0.0.1:8083"
  }
  tls = true
}

limits {
  host = 5

  host "a.example.com" {
    connections {}
    queue = {
      timeout = "2s"
    }
  }
}
