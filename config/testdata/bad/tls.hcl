name     = "d"
data_dir = "data/d"

cluster {
  gossip_accept_keys = [
    "c2VjcmV0c2VjcmV0",
    "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
  ]

  tls {
    ca_file   = "testdata/files/ca.pem"
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

proxy {
  tls {
    cert_file = "testdata/files/expired.pem"
    key_file  = "testdata/files/expired-key.pem"
  }
}

api {
  tls {
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/expired-key.pem"
  }
}
