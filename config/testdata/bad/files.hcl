name     = "a"
data_dir = "data/a"

cluster {
  tls {
    cert_file = "testdata/files/none.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

proxy {
  users_file = "testdata/files"

  tls {
  }
}

api {
  token_file      = "testdata/files/empty-token"
  read_token_file = "testdata/files/two-tokens"

  tls {
    ca_file   = "testdata/files/ca.pem"
    cert_file = ""
    key_file  = "testdata/files/node-key.pem"
  }
}
