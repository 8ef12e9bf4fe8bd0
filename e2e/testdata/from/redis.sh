# quote: semaphore
weir limits set api.example.com --connections 5 --queue-timeout 10s --queue-size 100
weir exec -- python3 worker.py
# end quote

# quote: rate
weir limits set api.example.com --requests 10/s --requests-burst 10 --queue-timeout 5s --queue-size 100
# end quote
