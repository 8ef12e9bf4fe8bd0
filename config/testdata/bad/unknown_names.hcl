data_dir   = "data/a"
lissten    = "127.0.0.1:1"
connections = 5
zzzzzzzzzzz = 1

loging {
  level = "info"
}

proxy {
  dail_timeout = "10s"
  ttl          = "10s"
  nothing_like_it = true
}

limits {
  connections = 5

  hosts "a.example.com" {
    connections = 5
  }

  host "b.example.com" {
    conections = 5

    qeue {
      timeout = "2s"
    }

    queue {
      timeout = "2s"
      size    = 5
      sice    = 5

      host "x" {}
    }
  }
}
