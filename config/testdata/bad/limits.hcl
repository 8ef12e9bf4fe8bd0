data_dir = "data/a"

limits {
  host "api.example.com" {
    connections = -1
    shared      = true
  }

  host "API.example.com." {
    connections = 2.5
  }

  host "" {}

  host {}

  host "a.example.com" "b.example.com" {}

  host "bad!pattern" {
    connections = 1000001
  }

  host "*.example.org" {
    shared = true

    queue {
      timeout = "0s"
    }
  }

  host "*.example.net" {
    queue {
      size = 0
    }

    queue {
      timeout = "2s"
      size    = 1
    }
  }

  host "10.0.0.0/8" {
    connections = 1e999999999

    queue "a" {
    }
  }
}

limits "more" {
  host "*" {
    connections = 1
  }
}
