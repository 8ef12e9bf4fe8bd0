data_dir = "data/a"

limits {
  host "${env.NOT_SET}.example.com" {
    connections = 1
  }

  host "${upper("a")}.example.com" {}

  host "${env.A}!" { conections = 2 }

  host "${env.A}" "b" {}

  host "a" {}

  host "%{ if true }a%{ endif }" {}

  host "${env.A}" { connections = }
}

proxy "${env.A}" {
  listen = 3
}
