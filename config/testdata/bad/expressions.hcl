name     = "a-${env.UNSET}"
data_dir = "data/${upper("a")}"
role     = env.ROLE

log {
  level  = log.level
  format = "te${5}t"
}

cluster {
  bootstrap_expect = 1 + 2
  join             = [for a in ["x"] : a]
  gossip_key       = "${env.UNSET}"
}

lease {
  ttl       = true ? "10s" : "20s"
  on_expiry = "${env}"
}

proxy {
  listen        = "${env.A.B}"
  reject_status = !true
  dial_timeout  = -"10s"
  users_file    = {}
}

api {
  token_file = "%{ if true }x%{ endif }"
}
