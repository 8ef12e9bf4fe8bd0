data_dir = "data/a"

api {
  token_file      = "testdata/files/token"
  read_token_file = "testdata/files/same-token"
}
