name     = "a"
data_dir = "data/a"

cluster {
  plaintext = "accept"

  tls {
    ca_file   = "testdata/files/node-key.pem"
    cert_file = "testdata/files/expired.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

api {
  tls {
    cert_file = "testdata/files/token"
    key_file  = "testdata/files/node-key.pem"
  }
}
