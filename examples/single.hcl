# One node, a cluster of its own. Others can join it later.

name     = "single"
data_dir = "data/single"

limits {
  # Each host that nothing below names.
  host "*" {
    connections = 25
  }

  # Over the limit, wait in line for up to two seconds.
  host "api.example.com" {
    connections = 5

    queue {
      timeout = "2s"
      size    = 100
    }
  }

  # Never connected to.
  host "*.blocked.example" {
    connections = 0
  }
}
