data_dir = "data/a"

limits {
  client "a.example.com" {}
  client "*.0.0.1" {}
  client "10.1.2.3:80" {}
  user "night*" {}
  user "a:b" {}
  key "a*b" {}
  key "" {}
  key {}

  total "all" {
    connections = 1
  }

  connection {
    connections = 5
    shared      = true

    queue {
      timeout = "1s"
      size    = 1
    }
  }

  total {
    shared = true
  }

  total {}

  client "10.0.0.0/8" {}
  client "10.9.9.9/8" {}

  user "nightly" {
    shared = true
    mode   = "reprot"
  }

  tenant "a" {}
  requests {}
}
