# quote: alone
weir limits set '*' --connections 25
weir limits set api.example.com --connections 5
weir hosts api.example.com
# end quote
